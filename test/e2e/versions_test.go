package e2e

import "testing"

// rotatingPod asks for versions of its secret, and waits for the next one.
const rotatingPod = `apiVersion: v1
kind: Pod
metadata: {name: rotator}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    command:
    - sh
    - -c
    - |
      secret() { wget -q -O - "http://127.0.0.1:8006/cdh/resource/default/test/secret$1"; }
      echo "newest: $(secret)"
      echo "first: $(secret '?version=1')"
      echo waiting
      for i in 1 2 3 4 5 6; do
        next=$(secret '?after=2&wait=30') && break
      done
      echo "next: $next"
`

// TestRotationReachesTheWorkload rotates a secret while a pod waits for that.
func TestRotationReachesTheWorkload(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	shared.startTrustee(t, home, "")
	file, id := shared.seal(t, home, rotatingPod)
	for _, s := range []string{"one", "two"} {
		shared.must(t, home, "secret", "put", "default/test/secret", "--for", id, "--from-file", write(t, home, s, s))
	}
	p := shared.run(t, home, file)
	p.waitOutput("waiting")
	shared.must(t, home, "secret", "rotate", "default/test/secret", "--grace", "0s", "--from-file", write(t, home, "three", "three"))
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr())
	}
	contains(t, "the pod's output", p.stdout(), "newest: two", "first: one", "next: three")
}
