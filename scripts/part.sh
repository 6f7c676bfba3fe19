#!/bin/bash
# part.sh NAME BUDGET COMMAND...: runs one part of a longer job, says what it is,
# and how long it took against its budget in seconds. Where COFFER_TIMES names a
# file, the time is noted there too. A part that takes four times its budget is
# taken for hung and ended.
set -euo pipefail
name=$1 budget=$2
shift 2
printf '\n=== %s: %s\n' "$name" "$*"
start=$(date +%s)
code=0
timeout -k 30 $((budget * 4)) "$@" </dev/null || code=$?
took=$(($(date +%s) - start))
line=$(printf '%-28s %5d s of %5d s' "$name" "$took" "$budget")
if [ $took -gt "$budget" ]; then line+='  OVER BUDGET'; fi
if [ $code = 124 ]; then line+='  ENDED: it hung'; fi
if [ $code != 0 ]; then line+="  FAILED ($code)"; fi
printf '=== %s\n' "$line"
if [ -n "${COFFER_TIMES:-}" ]; then echo "$line" >>"$COFFER_TIMES"; fi
exit $code
