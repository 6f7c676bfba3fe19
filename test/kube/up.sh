#!/bin/bash
# Starts the cluster: namespaces of its own for cgroups, mounts, network, processes,
# so that bridges, iptables, /run and sysctls of this machine stay what they are.
set -eu
. "$(dirname "$0")/env.sh"
if [ -e "$RUN/ns.pid" ] && kill -0 "$(cat "$RUN/ns.pid")" 2>/dev/null; then echo "already up"; exit 1; fi
# One child cgroup below ours, in each v1 hierarchy; in v2 the namespace is enough.
: > "$RUN/cgdirs"
while IFS=: read -r id ctl path; do
  [ -n "$ctl" ] || continue
  n=${ctl#name=}; base=/sys/fs/cgroup/$n$path; d=${base%/}/$(basename "$B")
  mkdir -p "$d"
  if [ "$n" = cpuset ]; then cat "${base%/}/cpuset.cpus" > "$d/cpuset.cpus"; cat "${base%/}/cpuset.mems" > "$d/cpuset.mems"; echo 1 > "$d/cgroup.clone_children"; fi
  echo "$d" >> "$RUN/cgdirs"
done < /proc/self/cgroup
# Nothing of the cluster before this one may say that this one is ready.
rm -f "$RUN/timeline" "$B"/logs/*.log
date +%s.%N > "$RUN/t0"
setsid bash -c '
  while read -r d; do echo $$ > $d/cgroup.procs; done < $RUN/cgdirs
  exec unshare -C -m -n -p -u -i --propagation private --fork --mount-proc --kill-child bash $KUBE_SRC/inner.sh
' > "$B/logs/inner.log" 2>&1 < /dev/null &
U=$!
for _ in $(seq 100); do P=$(tr -d ' ' < "/proc/$U/task/$U/children" 2>/dev/null) && [ -n "$P" ] && break; sleep 0.05; done
echo "$P" > "$RUN/ns.pid"
for _ in $(seq 1800); do
  grep -q "up done" "$RUN/timeline" 2>/dev/null && exit 0
  kill -0 "$P" 2>/dev/null || break
  sleep 0.1
done
echo "the cluster did not come up; $RUN/timeline and $B/logs say how far it got" >&2
cat "$RUN/timeline" "$B/logs/inner.log" >&2
exit 1
