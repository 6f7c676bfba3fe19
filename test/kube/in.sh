#!/bin/bash
# in.sh COMMAND...: runs a command inside the cluster's namespaces.
. "$(dirname "$0")/env.sh"
P=$(cat "$RUN/ns.pid")
export KUBECONFIG=$RUN/pki/admin.kubeconfig PATH=$COFFER_BIN:$B/bin:$PATH CONTAINERD_ADDRESS=/run/containerd/containerd.sock CONTAINERD_NAMESPACE=k8s.io
exec nsenter -t "$P" -m -n -p -u -i -C --wdns="$PWD" -- "$@"
