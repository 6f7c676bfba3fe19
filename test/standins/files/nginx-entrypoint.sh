#!/bin/sh
# Stand-in for the nginx image's entrypoint: run the hooks, then the command.
set -e
if [ "$1" = nginx ]; then
    for f in /docker-entrypoint.d/*.sh; do
        if [ -x "$f" ]; then "$f"; fi
    done
fi
exec "$@"
