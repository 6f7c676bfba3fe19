#!/bin/sh
# Stand-in for the redis image's entrypoint: options and configuration files
# are for redis-server, which does not run as root. Debian's server refuses
# clients from elsewhere by default; the image's is built without that.
set -e
case "${1:-}" in
-* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
    set -- "$@" --protected-mode no
    if [ "$(id -u)" = 0 ]; then
        chown redis:redis .
        exec setpriv --reuid redis --regid redis --clear-groups -- "$0" "$@"
    fi
fi
exec "$@"
