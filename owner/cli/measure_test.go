package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/seal"
)

// measureCommand runs coffer measure and gives what it prints.
func measureCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := NewRoot()
	var out, errout bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errout)
	root.SetArgs(append([]string{"measure"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// ownBundle is a bundle that the owner's key has signed.
func ownBundle(t *testing.T, file string) *refvalue.Signed {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := refvalue.ParseSigned(string(b))
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := seal.OwnerKey("")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(key.Public()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMeasureWritesASignedBundle measures named files and checks what the
// trustee would take.
func TestMeasureWritesASignedBundle(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("COFFER_STATE", filepath.Join(dir, "state"))
	kernel, initrd, bundle := filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd"), filepath.Join(dir, "values.jws")
	for p, text := range map[string]string{kernel: "a kernel", initrd: "an initrd"} {
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"cca-sim", "--kernel", kernel, "--initrd", initrd, "--cmdline", "console=ttyS0", "--vcpus", "2", "--memory", "512", "--bundle", bundle}
	out, err := measureCommand(t, append(args, "--output", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	var r MeasureReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.TEE != "cca-sim" || r.VCPUs != 2 || r.MemoryMiB != 512 || len(r.Rows) != 1 || len(r.Rows[0].Value) != 128 {
		t.Errorf("%s", out)
	}
	s := ownBundle(t, bundle)
	if s.KeyID != r.SignedBy || s.Bundle.Values["cca_realm_initial_measurement"] == nil || s.Bundle.Expires.IsZero() {
		t.Errorf("bundle %+v", s.Bundle)
	}

	out, err = measureCommand(t, args...)
	if err != nil || !strings.Contains(out, "SIMULATED") || !strings.Contains(out, r.Rows[0].Value) {
		t.Errorf("table %q, %v", out, err)
	}
}

func TestMeasureRefuses(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("COFFER_STATE", filepath.Join(dir, "state"))
	kernel := filepath.Join(dir, "kernel")
	if err := os.WriteFile(kernel, []byte("a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"unknown TEE":         {"csv", "--kernel", kernel, "--cmdline", "x"},
		"no TEE":              {},
		"no platform":         {"snp", "--platform", filepath.Join(dir, "none.json")},
		"pod and kernel":      {"snp-sim", "--from-pod", "pod.yaml", "--kernel", kernel},
		"pod and initdata":    {"snp-sim", "--from-pod", "pod.yaml", "--initdata", kernel},
		"bundle that is over": {"cca-sim", "--kernel", kernel, "--cmdline", "x", "--bundle", filepath.Join(dir, "b"), "--expires", "0s"},
		"off the ladder":      {"cca-sim", "--kernel", kernel, "--cmdline", "x", "--memory", "300"},
	} {
		if out, err := measureCommand(t, args...); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// The values of a debug image say so: in text, in JSON and in the bundle.
func TestMeasureOfADebugImageSaysSo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("COFFER_STATE", filepath.Join(dir, "state"))
	kernel, initrd := filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	for p, text := range map[string]string{kernel: "a kernel", initrd: "an initrd"} {
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for variant, debug := range map[string]bool{"": false, "sim": false, "debug": true, "sim-debug": true} {
		bundle := filepath.Join(dir, "values"+variant)
		args := []string{"cca-sim", "--kernel", kernel, "--initrd", initrd, "--cmdline", "x", "--memory", "512", "--bundle", bundle, "--variant", variant}
		out, err := measureCommand(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "WARNING: these are the values of a DEBUG image") != debug {
			t.Errorf("%q: %s", variant, out)
		}
		b, err := os.ReadFile(bundle)
		if err != nil {
			t.Fatal(err)
		}
		s, err := refvalue.ParseSigned(string(b))
		if err != nil || s.Bundle.Debug != debug {
			t.Errorf("%q: bundle %+v, %v", variant, s, err)
		}
	}
}
