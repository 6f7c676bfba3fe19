#!/bin/bash
# certs.sh: a CA and the certs/kubeconfigs of a one-node cluster in $PKI
set -eu
PKI=${PKI:-$B/run/pki}; mkdir -p $PKI; cd $PKI; [ -e done ] && exit 0
K() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key 2>/dev/null; }
K ca; openssl req -x509 -new -key ca.key -subj /CN=coffer-test-ca -days 365 -out ca.crt
C() { # name subject [san]
 K $1; openssl req -new -key $1.key -subj "$2" -out $1.csr
 printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" > $1.ext
 openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile $1.ext -out $1.crt 2>/dev/null; rm $1.csr $1.ext; }
C apiserver /CN=kube-apiserver DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:${NODE_IP:-10.99.0.1}
C apiserver-kubelet-client "/O=system:masters/CN=kube-apiserver-kubelet-client"
C admin "/O=system:masters/CN=admin"
C kcm "/CN=system:kube-controller-manager"
C sched "/CN=system:kube-scheduler"
C kproxy "/CN=system:kube-proxy"
C node1 "/O=system:nodes/CN=system:node:node1" DNS:node1,IP:127.0.0.1,IP:${NODE_IP:-10.99.0.1}
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
for u in admin kcm sched kproxy node1; do cat > $u.kubeconfig <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: u, user: {client-certificate: $PKI/$u.crt, client-key: $PKI/$u.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
X
done
touch done
