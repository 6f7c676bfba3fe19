#!/bin/bash
# images.sh PLATFORM.JSON: in a running cluster, shows that no layer of an image is
# fetched on the node for a pod of Coffer's, and that pods of another runtime with the
# same image start beside it, in either order, across kill -9 of containerd and of the
# snapshotter, with the snapshotter's folder lost, and after all images are removed.
# Prints a line for each step; fails at the first that is wrong.
set -euo pipefail
. "$(dirname "$0")/env.sh"
PLATFORM=$1 LOG=$B/logs/registry-access.log W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
in_() { bash "$KUBE_SRC/in.sh" "$@"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
# json FILE KEY: the text of a key, without JSON's escapes
json() { printf '%b' "$(sed -n 's/.*"'"$2"'":"\(\([^"\\]\|\\.\)*\)".*/\1/p' "$1" | head -1 | sed 's/\\"/"/g')"; }
json "$B/logs/mirror.log" registries > "$W/registries.conf"
json "$B/logs/trustee.log" ca_pem > "$W/ca.pem"
printf 'apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: coffer-tpm-sim}\nhandler: coffer-tpm-sim\n' > "$W/rc.yaml"
in_ kubectl apply -f "$W/rc.yaml" > "$W/out"

# pod NAME IMAGE coffer|runc: starts one, and says in $layers how many layers the node has fetched for it
pod() {
  local f=$W/$1.yaml notes= class=
  if [ "$3" = coffer ]; then notes="annotations: {io.containerd.cri.runtime-handler: coffer-tpm-sim}" class="runtimeClassName: coffer-tpm-sim"; fi
  cat > "$f" <<X
apiVersion: v1
kind: Pod
metadata:
  name: $1
  $notes
spec:
  $class
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "$2", imagePullPolicy: IfNotPresent, command: [sh, -c, "sleep 3600"]}
X
  if [ "$3" = coffer ]; then
    in_ coffer seal "$f" --tee tpm-sim --platform "$PLATFORM" --registries "$W/registries.conf" --trustee "https://$TRUSTEE" --trustee-ca "$W/ca.pem" \
      --admin-key "$RUN/trustee/admin.key" --out "$W/$1.sealed.yaml" > "$W/out" 2>&1 || { cat "$W/out"; fail "sealing $1"; }
    f=$W/$1.sealed.yaml
  fi
  : > "$LOG"
  in_ kubectl apply -f "$f" > "$W/out"
  in_ kubectl wait --for=condition=Ready "pod/$1" --timeout=180s > "$W/out" 2>&1 || { in_ kubectl describe pod "$1"; fail "pod $1 does not start"; }
  # What comes to the node's own address is containerd's. The images' configurations are below 8 KiB, their layers above.
  layers=$(awk -v n="$NODE_IP" '$1 == n && $2 == "GET" && $3 ~ /\/blobs\// && $5 > 8192' "$LOG" | wc -l)
  echo "$1 ($2, $3): runs; the node fetched $layers layers, $(awk -v n="$NODE_IP" '$1 == n { b += $5 } END { print b + 0 }' "$LOG") bytes"
}
none() { [ "$layers" = 0 ] || fail "the node fetched $layers layers"; }
runs() { in_ kubectl get "pod/$1" -o jsonpath='{.status.containerStatuses[0].restartCount}{.status.phase}' | grep -qx 0Running || fail "pod $1 did not stay"; }
named() { in_ pgrep -f "$1" | head -1; }

A=docker.io/library/busybox:latest Z=docker.io/library/nginx:1.29
pod first $A coffer; none
pod then $A runc; [ "$layers" -gt 0 ] || fail "a pod of runc without layers"
pod before $Z runc
pod after $Z coffer; none
echo "kill -9 of containerd, and start"
in_ kill -9 "$(named "bin/containerd --config")"; sleep 1
in_ bash -c "setsid '$B/bin/containerd' --config '$RUN/containerd.toml' >> '$B/logs/containerd.log' 2>&1 < /dev/null &"; sleep 3
pod third $A coffer; none; runs first
echo "kill -9 of the snapshotter, its folder lost, and start"
in_ kill -9 "$(named "coffer-node snapshotter")"; rm -rf "$RUN/snapshotter"
in_ bash -c "setsid coffer-node snapshotter --root '$RUN/snapshotter' >> '$B/logs/snapshotter.log' 2>&1 < /dev/null &"; sleep 1
pod fourth $A coffer; none; runs first
echo "all images removed"
in_ ctr -n k8s.io images ls 2> "$W/out" | awk -v p="$(in_ ctr -n k8s.io images ls 2> "$W/out" | awk '/pause/ { print $3; exit }')" 'NR > 1 && $3 != p { print $1 }' > "$W/images"
xargs bash "$KUBE_SRC/in.sh" ctr -n k8s.io images rm --sync < "$W/images" > "$W/out" 2>&1
pod fifth $A coffer; none; runs first
in_ kubectl delete pod first then before after third fourth fifth --now > "$W/out"
echo "all well"
