#!/bin/bash
# inner.sh: PID 1 of the sandbox
set -u
MODE=${MODE:-cluster}            # cluster | standalone | cri (containerd alone)
mark() { echo "$(echo "$(date +%s.%N) - $(cat $RUN/t0)" | bc) $*" | tee -a $RUN/timeline; }
: > $RUN/timeline; : > $RUN/pids; : > $B/logs/registry-access.log
hostname $NODE
[ -n "${KEEP:-}" ] || rm -rf $RUN/etcd $RUN/kubelet $RUN/varlog   # nothing is mounted there: the last sandbox's mounts died with it
# --- mounts, all private to this namespace
CTLS=$(cut -d: -f2 /proc/self/cgroup | grep -v '^$')
umount -R /sys/fs/cgroup                       # only this namespace's copy (propagation is private)
mount -t sysfs sysfs /sys                      # a sysfs of our net namespace
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in $CTLS; do n=${c#name=}; mkdir /sys/fs/cgroup/$n; o=$c; [ $n != $c ] && o=none,$c; mount -t cgroup -o $o cgroup /sys/fs/cgroup/$n || echo "no cgroup $c"; done
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/lock
mount -t tmpfs -o mode=755 tmpfs /var/lib         # /var/lib/cni (results cache of libcni) and /var/lib/kubelet stay in here
mkdir -p $RUN/varlog $RUN/kubelet $RUN/manifests $RUN/cni /var/lib/kubelet
mount --bind $RUN/varlog /var/log
mount --bind $RUN/kubelet /var/lib/kubelet; mount --make-rshared /var/lib/kubelet
printf '127.0.0.1 localhost\n%s %s\n' $NODE_IP $NODE > $RUN/hosts; mount --bind $RUN/hosts /etc/hosts
: > $RUN/resolv.conf
# kubelet (protectKernelDefaults=false) would write machine-wide sysctls: give it files that already hold what it wants
mkdir -p /run/sysctl
shield() { echo $2 > /run/sysctl/${1//\//_}; mount --bind /run/sysctl/${1//\//_} /proc/sys/$1; }
shield vm/overcommit_memory 1; shield vm/panic_on_oom 0; shield kernel/panic 10; shield kernel/panic_on_oops 1
shield kernel/keys/root_maxkeys 1000000; shield kernel/keys/root_maxbytes 25000000
# --- net: no way out of this namespace
ip link set lo up; ip addr add $NODE_IP/32 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward
mark sandbox
start() { local n=$1; shift; "$@" > $B/logs/$n.log 2>&1 < /dev/null & echo "$n $!" >> $RUN/pids; }
waitfor() { local t=$1; shift; for i in $(seq $((t*10))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done; mark "TIMEOUT $*"; return 1; }
BIN=${BIN:-$B/bin}; export PATH=$COFFER_BIN:$BIN:$B/bin:$PATH
# what a device plug-in would leave: TestDevices has a simulated device, and one that is not there
mkdir -p /run/cdi
cat > /run/cdi/gpu.yaml <<X
cdiVersion: "0.7.0"
kind: gpu.coffer.example/nvidia
devices:
- {name: "0", annotations: {coffer.simulated-device: nvidia}, containerEdits: {env: [NVIDIA_VISIBLE_DEVICES=void]}}
- {name: vfio, containerEdits: {deviceNodes: [{path: /dev/vfio/devices/vfio99999}]}}
X
cat > /run/cdi/plugin.yaml <<X
cdiVersion: "0.7.0"
kind: plugin.coffer.example/gpu
devices:
- {name: "0", annotations: {coffer.simulated-device: nvidia}, containerEdits: {env: [NVIDIA_VISIBLE_DEVICES=void]}}
X
# --- containerd
mkdir -p $RUN/cni/net.d /run/containerd
cat > $RUN/cni/net.d/10-bridge.conflist <<X
{"cniVersion":"1.0.0","name":"coffer","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"/run/cni-ipam","ranges":[[{"subnet":"$POD_NET"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
X

# SNAPSHOTTER= (empty): every image is pulled and unpacked on the node
"$BIN/containerd" --version | grep -q " v1\.7\." && SNAPSHOTTER=
SNAPSHOTTER=${SNAPSHOTTER-coffer}
if [ -n "$SNAPSHOTTER" ]; then
  mkdir -p $RUN/snapshotter
  start snapshotter $COFFER_BIN/coffer-node snapshotter --name $SNAPSHOTTER --root $RUN/snapshotter
fi
# what a user's node gets: handlers, RuntimeClasses, the snapshotter's plugin
$COFFER_BIN/coffer-node config --out $RUN/coffer $(printf -- ' --tee %s' tpm-sim snp-sim tdx-sim cca-sim sgx-sim hardware) --device gpu.coffer.example/nvidia --platform "$COFFER_PLATFORM" \
  --cache "$COFFER_CACHE_DIR" --snapshotter "$SNAPSHOTTER" --snapshotter-root $RUN/snapshotter --aliases > $B/logs/config.log 2>&1 || { cat $B/logs/config.log; exit 1; }
# the same for a class that asks the kubelet: devices of TestDevicePlugin
sed -e 's#^devices = .*#devices = ["plugin.coffer.example/gpu"]\npod_resources = "/var/lib/kubelet/pod-resources/kubelet.sock"#' $RUN/coffer/coffer-snp-sim-gpu.toml > $RUN/coffer/coffer-snp-sim-plugin.toml
grep -q pod_resources $RUN/coffer/coffer-snp-sim-plugin.toml || exit 1
awk '/runtimes.coffer-snp-sim-gpu\]/{p=1} /^$/{p=0} p' $RUN/coffer/containerd.toml | sed 's/coffer-snp-sim-gpu/coffer-snp-sim-plugin/' > $RUN/plugin.toml
{ echo; cat $RUN/plugin.toml; } >> $RUN/coffer/containerd.toml
cat > $RUN/containerd.toml <<X
version = 3
imports = ["$RUN/coffer/containerd.toml"]
root = "$RUN/containerd-root"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "info"
[plugins.'io.containerd.internal.v1.opt']
  path = "$RUN/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  disable_snapshot_annotations = false   # pulls as a client, which asks a handler's snapshotter
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/pause:dev"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "$RUN/certs.d"
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  restrict_oom_score_adj = true   # no CAP_SYS_RESOURCE on some machines
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$RUN/cni/net.d"
    max_conf_num = 2   # TestSecondCard adds one
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
X
# the registry that plays all others, by plain HTTP
mkdir -p $RUN/certs.d/_default
for r in docker.io registry.k8s.io gcr.io registry.example; do
  mkdir -p $RUN/certs.d/$r
  printf 'server = "http://%s"\n[host."http://%s/v2/%s"]\n  override_path = true\n  capabilities = ["pull", "resolve"]\n' $REGISTRY $REGISTRY $r > $RUN/certs.d/$r/hosts.toml
done
rm -rf $RUN/coffer-shim
if $BIN/containerd --version | grep -q ' v1\.7\.'; then # its file is of version 2, and its own snapshotters alone were tried
  sed -e 1,2d $RUN/coffer/containerd.toml >> $RUN/containerd.toml
  sed -i -e 's/^version = 3/version = 2/' -e '/^imports/d' -e "/cri.v1.images'\]/,/config_path/d" -e 's/io.containerd.cri.v1.runtime/io.containerd.grpc.v1.cri/' \
    -e 's#bin_dirs = \["/usr/lib/cni"\]#bin_dir = "/usr/lib/cni"#' -e 's#^  enable_selinux.*#&\n  sandbox_image = "localhost/pause:dev"#' $RUN/containerd.toml
  printf "[plugins.'io.containerd.grpc.v1.cri'.registry]\n  config_path = \"%s\"\n" $RUN/certs.d >> $RUN/containerd.toml
else # two handlers again, by the sandbox API
  $COFFER_BIN/coffer-node config --out $RUN/coffer-shim --tee tpm-sim --tee sgx-sim --sandboxer shim --platform "$COFFER_PLATFORM" --cache "$COFFER_CACHE_DIR" \
    --snapshotter "$SNAPSHOTTER" --snapshotter-root $RUN/snapshotter >> $B/logs/config.log 2>&1 || { cat $B/logs/config.log; exit 1; }
  sed -n "/^\[plugins.'io.containerd.cri.v1.runtime'/,\$ s/^\( *\[plugins.*\.coffer-[a-z-]*sim\)/\1-sandbox/; /^\[plugins.'io.containerd.cri.v1.runtime'/,\$ p" $RUN/coffer-shim/containerd.toml >> $RUN/containerd.toml
  sed -i 's/^\(metadata: {name\|handler\): coffer-[a-z-]*sim/&-sandbox/' $RUN/coffer-shim/runtimeclasses.yaml
fi
CTR=$BIN/ctr
start containerd $BIN/containerd --config $RUN/containerd.toml
export CONTAINERD_ADDRESS=/run/containerd/containerd.sock
waitfor 20 $CTR version; mark "containerd up"
$CTR -n k8s.io images import $B/images/pause.tar
start mirror $COFFER_BIN/test-mirror --layouts $COFFER_LAYOUTS --writable $RUN/pushed --listen $REGISTRY --access-log $B/logs/registry-access.log
mkdir -p $RUN/trustee
start trustee $COFFER_BIN/coffer-trustee serve --state $RUN/trustee --listen $TRUSTEE --san $NODE_IP --simulated-namespace sim
mark "images imported"
# --- control plane
if [ $MODE = cluster ]; then
 bash $KUBE_SRC/certs.sh; P=$RUN/pki; mark certs
 start etcd ${ETCD:-$B/bin/etcd} --data-dir $RUN/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
 start kube-apiserver $BIN/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 --advertise-address=$NODE_IP \
  --service-cluster-ip-range=$SVC_NET --service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file=$P/sa.key --service-account-key-file=$P/sa.pub \
  --tls-cert-file=$P/apiserver.crt --tls-private-key-file=$P/apiserver.key --client-ca-file=$P/ca.crt \
  --kubelet-client-certificate=$P/apiserver-kubelet-client.crt --kubelet-client-key=$P/apiserver-kubelet-client.key --kubelet-certificate-authority=$P/ca.crt \
  --kubelet-preferred-address-types=Hostname,InternalIP --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true
 waitfor 60 $B/bin/kubectl --kubeconfig $P/admin.kubeconfig get --raw /readyz; mark "apiserver ready"
 start kube-controller-manager $BIN/kube-controller-manager --kubeconfig=$P/kcm.kubeconfig --authentication-kubeconfig=$P/kcm.kubeconfig --authorization-kubeconfig=$P/kcm.kubeconfig \
  --service-account-private-key-file=$P/sa.key --root-ca-file=$P/ca.crt --use-service-account-credentials=true --kube-api-qps=200 --kube-api-burst=400 --flex-volume-plugin-dir=$RUN/flex --leader-elect=false --bind-address=127.0.0.1
 start kube-scheduler $BIN/kube-scheduler --kubeconfig=$P/sched.kubeconfig --authentication-kubeconfig=$P/sched.kubeconfig --authorization-kubeconfig=$P/sched.kubeconfig --leader-elect=false --bind-address=127.0.0.1
fi
# --- names of services and pods: on the node, behind a service as everywhere
if [ $MODE = cluster ]; then
 cat > $RUN/Corefile <<X
.:53 {
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $P/admin.kubeconfig
        pods insecure
    }
}
X
 start coredns $B/bin/coredns -conf $RUN/Corefile
 $B/bin/kubectl --kubeconfig $P/admin.kubeconfig apply -f - <<X
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_IP
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$NODE_IP]}]
X
 CLUSTER_DNS="clusterDNS: [$DNS_IP]"
fi
[ $MODE = cri ] && { mark 'up done'; while :; do wait -n 2>/dev/null || sleep 5; done; }
# --- kubelet
if [ $MODE = cluster ]; then
 AUTH="authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/node1.crt
tlsPrivateKeyFile: $P/node1.key"
 KC="--kubeconfig=$P/node1.kubeconfig"
else
 AUTH="authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
enableServer: true
readOnlyPort: 10255"
 KC=""
fi
cat > $RUN/kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 20000
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: $RUN/manifests
podLogsDir: /var/log/pods
volumePluginDir: $RUN/kubelet/volume-plugins
resolvConf: $RUN/resolv.conf
clusterDomain: cluster.local
${CLUSTER_DNS:-}
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
healthzBindAddress: 127.0.0.1
nodeStatusUpdateFrequency: 5s
$AUTH
X
start kubelet $BIN/kubelet --config=$RUN/kubelet.yaml $KC --root-dir=/var/lib/kubelet --hostname-override=$NODE --node-ip=$NODE_IP --v=2
mark "kubelet started"
waitfor 60 curl -sf http://127.0.0.1:10248/healthz; mark "kubelet healthz"
if [ $MODE = cluster ]; then
 k() { $B/bin/kubectl --kubeconfig $P/admin.kubeconfig "$@"; }
 k create sa default >/dev/null   # the controller would make it only ~5 s after its start
 waitfor 60 k get node $NODE; mark "node registered"
 k wait --for=condition=Ready node/$NODE --timeout=60s; mark "node Ready"
 cat > $RUN/kube-proxy.yaml <<X
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_NET
hostnameOverride: $NODE
clientConnection: {kubeconfig: $P/kproxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
X
 [ ${PROXY:-1} = 1 ] && start kube-proxy $BIN/kube-proxy --config=$RUN/kube-proxy.yaml --v=2
 waitfor 30 k get sa default; mark "default serviceaccount"
fi
mark "up done"
while :; do wait -n 2>/dev/null || sleep 5; done
