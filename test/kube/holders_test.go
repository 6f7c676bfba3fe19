package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holder is one of the two ways to hold a pod, with what differs in a test: every
// feature is tried with both. VMs of other TEEs run the same code (TestOtherTEEs).
type holder struct {
	tee, class string
	alias      string   // a published name of the class
	process    string   // on the node, whose control group is the pod's
	victims    []string // processes to kill, as pgrep -f finds them
	// limits are containers' limits as YAML; a library OS keeps none, and they are
	// refused (TestLimitsAreRefused).
	limits string
}

var holders = []holder{
	{
		tee: "tpm-sim", class: "coffer-tpm-sim", alias: "kata-qemu-coco-dev", process: "coffer,process=coffer-qemu",
		victims: []string{"coffer,process=coffer-qemu", shimProcess}, limits: "{memory: 64Mi, cpu: 500m}",
	},
	{
		tee: "sgx-sim", class: "coffer-process-sim", alias: "enclave-cc", process: "runsc-sandbox",
		victims: []string{"runsc-sandbox", "runsc-gofer", "coffer-runsc -root", "coffer-simhw", shimProcess}, limits: "{}",
	},
}

const shimProcess = "containerd-shim-coffer-v2 -namespace"

// withEach runs a test with each holder.
func withEach(t *testing.T, f func(t *testing.T, h holder)) {
	for _, h := range holders {
		t.Run(h.tee, func(t *testing.T) { f(t, h) })
	}
}

// withBoth runs a test with all holders at once, in which nothing disturbs the others: its
// names are its holder's own.
func withBoth(t *testing.T, f func(t *testing.T, h holder)) {
	for _, h := range holders {
		t.Run(h.tee, func(t *testing.T) {
			t.Parallel()
			f(t, h)
		})
	}
}

// classOf gives the RuntimeClass of a TEE.
func classOf(tee string) string {
	for _, h := range holders {
		if h.tee == tee {
			return h.class
		}
	}
	return "coffer-" + tee
}

// teeOf gives the TEE of a RuntimeClass.
func teeOf(class string) string {
	for _, h := range holders {
		if h.class == class {
			return h.tee
		}
	}
	return strings.TrimPrefix(class, "coffer-")
}

// known makes the trustee know this machine's simulated hardware of the holder's kind.
func (k *kube) known(t *testing.T, h holder) {
	t.Helper()
	if h.tee == "tpm-sim" {
		k.root(t)
		return
	}
	// As a developer would: coffer run registers what it has started.
	pod := k.file(t, strings.Replace(simple("first", "runc", "echo hello"), "  runtimeClassName: runc\n", "  restartPolicy: Never\n", 1))
	k.must(t, append([]string{"env", "COFFER_CACHE=" + k.cache, "coffer", "run", pod, "--tee", h.tee, "--registries", filepath.Join(k.dir, "registries.conf")}, k.trustee...)...)
}

// TestLimitsAreRefused: what a library OS cannot keep is refused where the owner seals
// and, since a cluster may add it later, in the guest.
func TestLimitsAreRefused(t *testing.T) {
	k := cluster
	plain := simple("limited", "coffer-process-sim", "sleep 3600")
	limits := "    resources: {limits: {memory: 64Mi}}\n"
	file := k.file(t, plain+limits)
	if _, err := k.in(append([]string{"coffer", "seal", file, "--tee", "sgx-sim", "--out", "/dev/null", "--registries", filepath.Join(k.dir, "registries.conf")}, k.trustee...)...); err == nil || !strings.Contains(err.Error(), "resources.limits.memory") {
		t.Errorf("sealing: %v", err)
	}
	// Sealed for a VM, whose policy has the limit, and given to a library OS. Both
	// TEEs bind initdata with the same algorithm.
	path, _ := k.seal(t, "cca-sim", plain+limits)
	k.apply(t, path)
	k.event(t, "limited", "library OS")
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), "coffer-process-sim") {
		t.Errorf("the sealed pod names another class: %v", err)
	}
}
