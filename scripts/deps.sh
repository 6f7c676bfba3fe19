#!/bin/bash
# Installs the Debian packages that building and testing Coffer needs, and only
# those that are missing. Where nothing is missing it changes and asks nothing.
# What would disturb the machine (kernel, QEMU, firmware) is not installed at
# all: coffer guest build unpacks it into a cache of ours.
set -euo pipefail

have() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

[ -r /etc/os-release ] || { echo "deps: this is not Debian" >&2; exit 1; }
# shellcheck source=/dev/null
. /etc/os-release
if [ "${ID:-}" != debian ]; then
  echo "deps: this is ${PRETTY_NAME:-an unknown system}; Coffer is built and tested on Debian 12 and 13" >&2
  exit 1
fi

# curl: the documents' commands, which a test runs. swtpm: the software TPM of the simulated TEE. iproute2, procps: network
# namespaces and processes in tests. xz, zstd: packages and kernel modules.
# e2fsprogs: e2fsck, which judges the guest's file systems. gcc, libc6-dev, softhsm2: coffer-pkcs11 and its tests.
need=(ca-certificates curl debian-archive-keyring e2fsprogs gcc git iproute2 libc6-dev make procps softhsm2 swtpm swtpm-tools xz-utils zstd)

# The libraries that QEMU 10 is linked with. On Debian 12 QEMU 10 comes from
# backports and is unpacked, so its dependencies are named here (the same list
# as owner/guestimage.HostLibraries, checked by test/docs).
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
  need+=(libaio1 libbpf1 libcapstone4 libfdt1 libfuse3-3 libglib2.0-0 libibverbs1
    libjpeg62-turbo libnuma1 libpixman-1-0 libpmem1 libpng16-16 librdmacm1
    libsasl2-2 libseccomp2 libslirp0 libudev1 liburing2 libvdeplug2 libzstd1)
fi

# The database of the trustee's replicas, for their tests, which start servers of
# their own: no cluster is made and none is started by the package.
case ${VERSION_CODENAME:-} in
  bookworm) need+=(postgresql-15) ;;
  *) need+=(postgresql-17) ;;
esac

# The node's packet filter, for host/podnet's tests (and kube-proxy's).
need+=(iptables)

# Beside those: what a Kubernetes of its own needs (make kube).
if [ "${1:-}" = kube ]; then need+=(bc containernetworking-plugins openssl runc util-linux); fi

missing=()
for p in "${need[@]}"; do have "$p" || missing+=("$p"); done

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
can_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

# apt's lists are needed even where nothing is missing: the guest's kernel and
# the tests' images are made from packages.
lists() { [[ $(apt-cache policy swtpm 2>/dev/null) == *'Candidate: '[0-9]* ]]; }

update() {
  can_root || { echo "deps: needs root: apt-get update" >&2; exit 1; }
  # Another suite's failure (a third party's, say) does not matter by itself.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 update >/dev/null || true
  lists || { echo "deps: apt-get update brought no list of Debian's packages" >&2; exit 1; }
}

updated=no
if ! lists; then update; updated=yes; fi

# Later releases have QEMU 10 themselves and other names for some libraries:
# take what their own package depends on.
if [ "${VERSION_CODENAME:-}" != bookworm ]; then
  while read -r p; do have "$p" || missing+=("$p"); done < <(apt-cache depends --important qemu-system-x86 |
    awk '$1 ~ /Depends:$/ && $2 ~ /^(lib|zlib)/ { print $2 }')
fi

if [ ${#missing[@]} = 0 ]; then
  echo "deps: every Debian package is there"
  exit 0
fi
if ! can_root; then
  echo "deps: missing: ${missing[*]}" >&2
  echo "deps: as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
case " ${missing[*]} " in
  *" postgresql-"*)
    conf=/etc/postgresql-common/createcluster.d/coffer.conf
    if [ ! -e /etc/postgresql-common ]; then
      as_root mkdir -p "${conf%/*}"
      echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
    fi
    ;;
esac
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "deps: installing ${missing[*]}"
install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "${missing[@]}" >"$log" 2>&1
}
if ! install; then
  # The lists may be older than the mirror: once more with new ones.
  if [ $updated = no ]; then update; fi
  if ! install; then
    cat "$log" >&2
    exit 1
  fi
fi
