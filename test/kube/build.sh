#!/bin/bash
# Builds Kubernetes, etcd, containerd and CoreDNS from their Go modules into $B/bin, and the
# pause image. What is there already stays: the go command says whether it is current.
set -eu
. "$(dirname "$0")/env.sh"
exec 9> "$B/build.lock" # one build at a time; the next finds its work done
flock 9
KV=$(grep -oE 'k8s.io/kubernetes v[0-9][^ ]*' "$KUBE_SRC/tools/k8s/go.mod" | head -1 | cut -d' ' -f2)
mm=${KV#v}; maj=${mm%%.*}; min=${mm#*.}; min=${min%%.*}
LD="-s -w"
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  LD="$LD -X $p.gitVersion=$KV -X $p.gitMajor=$maj -X $p.gitMinor=$min -X $p.gitTreeState=clean"
done
# Without debug information, which -s and -w would drop anyway, and with less collecting of
# garbage: a fifth of the time less. Only the standard library is inlined: a seventh less.
# The modules are one workspace (tools/go.work), so that packages that several of them need
# are compiled once.
export GOFLAGS="$GOFLAGS -trimpath" GOGC=400
GC=("-gcflags=all=-dwarf=false -l" -gcflags=std=-dwarf=false)
say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
CV=$(grep -oE 'containerd/containerd/v2 v[0-9][^ ]*' "$KUBE_SRC/tools/containerd/go.mod" | head -1 | cut -d' ' -f2)
cd "$KUBE_SRC/tools/k8s"
say "Kubernetes $KV, etcd, containerd $CV, CoreDNS" # in one command, which keeps all processors busy
go build "${GC[@]}" -tags "no_btrfs no_zfs no_devmapper no_blockfile no_aufs" -ldflags "$LD -X github.com/containerd/containerd/v2/version.Version=$CV" -o "$B/bin/" \
  k8s.io/kubernetes/cmd/{kube-apiserver,kubelet,kube-controller-manager,kube-scheduler,kubectl,kube-proxy} \
  github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr} \
  example.invalid/tools/etcd example.invalid/tools/coredns
cd "$KUBE_SRC/tools/cri"
say "the CRI's client" # for the build cache: the test builds it
go test "${GC[@]}" -c -o /dev/null .
if [ "${1:-}" = full ]; then
  export GOWORK=off # older versions of the same modules
  cd "$KUBE_SRC/tools/containerd17"
  CV=$(grep -oE 'containerd/containerd v[0-9][^ ]*' go.mod | head -1 | cut -d' ' -f2)
  say "containerd $CV"
  mkdir -p "$B/bin17"
  go build "${GC[@]}" -tags "no_btrfs no_zfs no_devmapper no_aufs" -ldflags "-s -w -X github.com/containerd/containerd/version.Version=$CV" \
    -o "$B/bin17/" github.com/containerd/containerd/cmd/{containerd,containerd-shim-runc-v2,ctr}
  # The last kubelet that takes containerd 1.7; an API server may be two versions ahead of it.
  cd "$KUBE_SRC/tools/kubelet135"
  KV=$(grep -oE 'k8s.io/kubernetes v[0-9][^ ]*' go.mod | head -1 | cut -d' ' -f2)
  say "Kubernetes $KV: kubelet"
  mkdir -p "$B/bin135"
  LD="-s -w"
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    LD="$LD -X $p.gitVersion=$KV -X $p.gitMajor=1 -X $p.gitMinor=35 -X $p.gitTreeState=clean"
  done
  go build "${GC[@]}" -ldflags "$LD" -o "$B/bin135/" k8s.io/kubernetes/cmd/kubelet
  ln -sf ../bin/kube-apiserver ../bin/kube-controller-manager ../bin/kube-scheduler ../bin/kubectl ../bin/kube-proxy ../bin17/containerd \
    ../bin17/containerd-shim-runc-v2 ../bin17/ctr "$B/bin135/"
fi
unset GOWORK
cd "$KUBE_SRC/../.."
say "pause image"
go run ./test/kube/pause build "$B/images/pause.tar"
say done
