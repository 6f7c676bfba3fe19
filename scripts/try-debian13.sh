#!/bin/bash
# Tries Coffer on Debian 13 (trixie), on a machine that has another release: makes
# a chroot from trixie's packages, clones the committed tree into it and runs
# what a user would run. What came of it belongs into docs/known-gaps.md.
#
#   scripts/try-debian13.sh [command...]     default: make demo
#
# Needs root, the package debootstrap and 6 GB below TMPDIR. The kernel, /dev and
# the Go compiler are the machine's; everything else in the chroot is trixie's.
# Mounts and processes live in namespaces of this script's own and end with it;
# the folder goes too. DIR=<folder> keeps the chroot there for the next time.
set -euo pipefail

suite=trixie
repo=$(cd "$(dirname "$0")/.." && pwd)

if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" = 0 ] || { echo "try-debian13: needs root: debootstrap, chroot and mounts" >&2; exit 1; }
  command -v debootstrap >/dev/null || { echo "try-debian13: apt-get install debootstrap" >&2; exit 1; }
  command -v go >/dev/null || { echo "try-debian13: no Go compiler in PATH" >&2; exit 1; }
  if [ -n "${DIR:-}" ]; then
    mkdir -p "$DIR"
    DIR=$(cd "$DIR" && pwd)
  else
    DIR=$(mktemp -d "${TMPDIR:-/tmp}/deb13.XXXXXX")
    # --one-file-system: a mount that survived is never emptied.
    trap 'rm -rf --one-file-system "$DIR" "$DIR.log"' EXIT
  fi
  export DIR
  unshare --mount --pid --fork --kill-child --propagation private "$0" --inside "$@"
  exit
fi
shift
[ $# -gt 0 ] || set -- make demo

##### the chroot

# The machine's own mirror, as apt knows it.
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CODENAME)' 'Created-By: Packages' |
  awk -v c="$codename" '$3 == "main" && ($2 == c || $4 == c) && !m { m = $1 } END { print m }')
[ -n "$mirror" ] || { echo "try-debian13: apt's sources name no Debian archive" >&2; exit 1; }

if [ ! -e "$DIR/.coffer-try" ]; then
  [ -z "$(ls -A "$DIR")" ] || { echo "try-debian13: $DIR is neither empty nor a chroot of this script" >&2; exit 1; }
  echo "try-debian13: making a chroot of Debian 13"
  debootstrap --variant=minbase --include=ca-certificates,git,make "$suite" "$DIR" "$mirror" >"$DIR.log" ||
    { tail -20 "$DIR.log" >&2; exit 1; }
  rm -f "$DIR.log"
  touch "$DIR/.coffer-try"
fi
# How the machine reaches its mirror holds inside too.
cp /etc/resolv.conf /etc/hosts "$DIR/etc/"
apt-config dump | grep -E '^Acquire::(https?(::|-)|Check-Valid-Until )' >"$DIR/etc/apt/apt.conf.d/90machine" || true
if [ -d /usr/local/share/ca-certificates ]; then
  cp -r /usr/local/share/ca-certificates "$DIR/usr/local/share/"
  chroot "$DIR" update-ca-certificates >/dev/null 2>&1
fi

mount -t proc proc "$DIR/proc"
mount --rbind /sys "$DIR/sys"
mount --rbind /dev "$DIR/dev"
mount -t tmpfs tmpfs "$DIR/run"

##### the Go compiler, and modules from the machine's cache where it has them

goroot=$(go env GOROOT)
modules=$(go env GOMODCACHE)/cache/download
mkdir -p "$DIR/usr/local/go" "$DIR/mnt/modules" "$modules"
mount --bind -o ro "$goroot" "$DIR/usr/local/go"
mount --bind -o ro "$modules" "$DIR/mnt/modules"

##### the tree, as committed

if [ ! -d "$DIR/root/coffer" ]; then
  git clone -q "file://$repo" "$DIR/root/coffer"
else
  git -C "$DIR/root/coffer" pull -q --ff-only "file://$repo"
fi

pass=(HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" TMPDIR=/tmp
  PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  GOPROXY="file:///mnt/modules,$(go env GOPROXY)" GOSUMDB="$(go env GOSUMDB)" GOFLAGS="$(go env GOFLAGS)")
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  [ -z "${!v:-}" ] || pass+=("$v=${!v}")
done
echo "try-debian13: $(. "$DIR/etc/os-release" && echo "$PRETTY_NAME"), $(git -C "$DIR/root/coffer" rev-parse --short HEAD): $*"
# shellcheck disable=SC2016
chroot "$DIR" env -i "${pass[@]}" bash -c 'cd /root/coffer && exec "$@"' bash "$@"
