#!/bin/sh
# printenv [NAME ...]: Debian builds busybox without this applet, the public
# image has it.
[ $# = 0 ] && exec env
missing=0
for name; do
  eval "set=\${$name+x}"
  if [ "$set" ]; then eval "echo \"\$$name\""; else missing=1; fi
done
exit $missing
