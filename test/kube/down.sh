#!/bin/bash
# Ends the cluster by its first process, which takes every other along, and removes its cgroups.
. "$(dirname "$0")/env.sh"
P=$(cat "$RUN/ns.pid" 2>/dev/null) && kill -9 "$P" 2>/dev/null
for _ in $(seq 100); do kill -0 "$P" 2>/dev/null || break; sleep 0.1; done
sleep 0.5
while read -r d; do [ -d "$d" ] && find "$d" -depth -type d -exec rmdir {} \; ; done < "$RUN/cgdirs"
rm -f "$RUN/ns.pid"
