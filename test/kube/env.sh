# Where the cluster is built and runs: COFFER_KUBE, else below the cache.
export KUBE_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export B=${COFFER_KUBE:-$HOME/.cache/coffer-kube}
export RUN=${RUN:-$B/run} NODE=node1 NODE_IP=10.99.0.1 POD_NET=10.88.0.0/24 SVC_NET=10.96.0.0/16 DNS_IP=10.96.0.10
export REGISTRY=$NODE_IP:5000 TRUSTEE=$NODE_IP:8443
export GOFLAGS=-buildvcs=false GOTOOLCHAIN=local CGO_ENABLED=0
mkdir -p "$B"/{bin,logs,images} "$RUN"
export COFFER_BIN=${COFFER_BIN:-$(cd "$KUBE_SRC/../../bin" && pwd)} COFFER_CACHE_DIR=${COFFER_CACHE:-$HOME/.cache/coffer}
export COFFER_PLATFORM=${COFFER_PLATFORM:-$COFFER_CACHE_DIR/guest/platform.json} COFFER_LAYOUTS=${COFFER_LAYOUTS:-$COFFER_CACHE_DIR/standins/layouts}
