package e2e

import "testing"

// namedPod shows the documents that say what it is called, but no key.
const namedPod = `apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    command:
    - sh
    - -c
    - |
      api=http://127.0.0.1:8006/coffer/identity
      ask() { wget -O - "$api/$1" 2>&1; }
      ask x509/web > /tmp/web
      echo "x509: $(tr ',' '\n' < /tmp/web | grep -o 'spiffe_id.*')"
      echo "keys: $(grep -c 'BEGIN PRIVATE KEY' /tmp/web)"
      echo "jwt: $(ask 'jwt/web?audience=queue' | tr ',' '\n' | grep -o 'spiffe_id.*')"
      echo "another: $(ask x509/db)"
`

// TestIdentityReachesTheWorkload has a pod ask what it is called, where evidence must cover
// the channel.
func TestIdentityReachesTheWorkload(t *testing.T) {
	t.Parallel()
	for _, tee := range []string{"sgx-sim", "tpm-sim", "snp-sim"} {
		t.Run(tee, func(t *testing.T) {
			t.Parallel()
			if tee != "sgx-sim" {
				full(t)
			}
			home := shared.newHome(t)
			shared.startTrustee(t, home, "")
			shared.must(t, home, "namespace", "channel-binding", "sim", "required")
			shared.must(t, home, "identity", "trust-domain", "sim.example.org", "--namespace", "sim")
			file, id := shared.seal(t, home, namedPod, "--tee", tee, "--bind-channel", "--identity", "web")
			for _, name := range []string{"web", "db"} {
				shared.must(t, home, "identity", "set", name, "--path", "/"+name, "--audience", "queue", "--namespace", "sim")
				shared.must(t, home, "secret", "bind", "identity/svid/"+name, "--for", id)
			}
			p := shared.run(t, home, "--tee", tee, file)
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d: %s", code, p.stderr())
			}
			const name = `spiffe_id":"spiffe://sim.example.org/web"`
			contains(t, "the pod's output", p.stdout(), "x509: "+name, "keys: 1", "jwt: "+name, "another: ", "403")
		})
	}
}
