package kube

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// record is the trustee's record of a refusal, in what the pod's events say.
var record = regexp.MustCompile(`coffer explain ([0-9a-f]+)`)

// TestFailedStarts: a start that fails says in the pod's events what a person can act
// on, and when the cause is gone the same pod starts.
func TestFailedStarts(t *testing.T) { withEach(t, testFailedStarts) }

func testFailedStarts(t *testing.T, h holder) {
	k := cluster
	k.known(t, h)
	image, key := k.encrypted(t, h.tee)
	name := "locked-" + h.tee
	keyURI := "default/image-key/" + h.tee
	path, seal := k.seal(t, h.tee, strings.Replace(simple(name, h.class, "echo opened; sleep 3600"), "docker.io/library/busybox:latest", image, 1))

	// What the guest alone decides is the same code with both; CI has the time for one.
	all := h.tee == "sgx-sim" || os.Getenv("COFFER_E2E_FULL") == "1"
	trustee, err := k.pid("coffer-trustee serve")
	if err != nil {
		t.Fatal(err)
	}
	if all {
		k.must(t, "kill", "-STOP", trustee)
	}
	k.apply(t, path)
	t.Run("the trustee is away", func(t *testing.T) {
		if !all {
			t.Skip("beyond CI's time: COFFER_E2E_FULL=1 runs it")
		}
		defer k.must(t, "kill", "-CONT", trustee)
		k.event(t, name, "trustee not available (the pod's initdata names https://")
		k.tellEvents(t, name)
	})
	t.Run("there is no key", func(t *testing.T) {
		k.event(t, name, "refused by the trustee (kbs): secret-unbound: initdata digest; no key or secret of this name is bound to the pod")
	})
	t.Run("the key is another pod's", func(t *testing.T) {
		_, other := k.seal(t, h.tee, simple("another", h.class, "sleep 3600"))
		k.must(t, append([]string{"coffer", "secret", "put", keyURI, "-n", "sim", "--from-file", key, "--for", other}, k.trustee...)...)
		k.tellEvents(t, name)
		out := k.must(t, "kubectl", "describe", "pod", name)
		m := record.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no record of the trustee's in\n%s", out)
		}
		if said := k.must(t, append([]string{"coffer", "explain", m[1]}, k.trustee...)...); !strings.Contains(said, keyURI) {
			t.Errorf("coffer explain %s does not name the key:\n%s", m[1], said)
		}
	})
	t.Run("and now it starts", func(t *testing.T) {
		k.must(t, append([]string{"coffer", "secret", "bind", keyURI, "-n", "sim", "--for", seal}, k.trustee...)...)
		k.ready(t, name)
		k.logs(t, name, "opened")
	})
	k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
	t.Run("the guest ends before it answers", func(t *testing.T) {
		if !all {
			t.Skip("beyond CI's time: COFFER_E2E_FULL=1 runs it")
		}
		name := "ended-" + h.tee
		path, _ := k.seal(t, h.tee, simple(name, h.class, "echo up; sleep 3600"))
		// A pod in a process answers half a second after it has begun, so that who kills
		// it before waits for it already, without a pause.
		killed := make(chan error, 1)
		go func() {
			_, err := k.in("timeout", "60", "bash", "-c", "until p=$(pgrep -f '["+h.process[:1]+"]"+h.process[1:]+"'); do :; done; kill -9 $p")
			killed <- err
		}()
		k.apply(t, path)
		if err := <-killed; err != nil {
			t.Fatalf("a process to kill: %v", err)
		}
		eventually(t, "an event that says how the TEE ended", func() (bool, string) {
			out, err := k.in("kubectl", "describe", "pod", name)
			// The second where it had not been measured yet.
			return err == nil && (strings.Contains(out, "the TEE ended: ") || strings.Contains(out, "launching the TEE: ")), out
		})
		k.tellEvents(t, name)
		k.ready(t, name)
	})
}

// tellEvents logs them, so that who reads a failed run sees what a user would.
func (k *kube) tellEvents(t *testing.T, pod string) {
	t.Helper()
	out, err := k.in("kubectl", "get", "events", "--field-selector", "involvedObject.name="+pod+",type=Warning", "-o", "custom-columns=:.reason,:.message", "--no-headers")
	t.Logf("events: %s %v", out, err)
}

// encrypted pushes an encrypted image to the cluster's registry and gives its name and
// the file with its key.
func (k *kube) encrypted(t *testing.T, name string) (image, key string) {
	t.Helper()
	image, key = "docker.io/library/locked-"+name+":1", filepath.Join(t.TempDir(), "key")
	k.must(t, "coffer", "image", "encrypt", "docker.io/library/busybox:latest", image, "--key-id", "kbs:///default/image-key/"+name, "--key-file", key, "--registries", filepath.Join(k.dir, "registries.conf"))
	return image, key
}
