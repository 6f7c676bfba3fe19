// Package fips builds the trustee with the FIPS 140-3 module of Go's toolchain and
// has it do its work.
package fips

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrusteeWithFIPSModule starts what `make fips` builds, administrates it, and looks
// at what its TLS agrees on.
func TestTrusteeWithFIPSModule(t *testing.T) {
	if os.Getenv("COFFER_E2E") == "" || os.Getenv("COFFER_E2E_FULL") == "" {
		t.Skip("compiles everything once more: set COFFER_E2E=1 and COFFER_E2E_FULL=1")
	}
	dir := t.TempDir()
	build := exec.Command("make", "fips", "FIPS_BIN="+dir)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	info, err := exec.Command("go", "version", "-m", filepath.Join(dir, "coffer-trustee")).CombinedOutput()
	if err != nil || !bytes.Contains(info, []byte("GOFIPS140=v")) || !bytes.Contains(info, []byte("fips140=on")) {
		t.Fatalf("%v: the binary does not say that it has the module, switched on: %s", err, info)
	}
	env := append(os.Environ(), "COFFER_STATE="+filepath.Join(dir, "state"), "HOME="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
	server := exec.Command(filepath.Join(dir, "coffer-trustee"), "serve", "--die-with-parent", "--listen", "127.0.0.1:0")
	server.Env, server.Stderr = env, os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	var ready struct {
		URL   string `json:"url"`
		CAPEM string `json:"ca_pem"`
	}
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"namespace", "create", "prod"}, {"credential", "whoami"}, {"token-key", "rotate", "--namespace", "prod"}, {"audit", "verify", "--witness", filepath.Join(dir, "witness.json")},
	} {
		c := exec.Command(filepath.Join(dir, "coffer"), args...)
		c.Env = env
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("coffer %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ready.CAPEM))
	for name, tc := range map[string]struct {
		offered tls.CurveID
		ok      bool
	}{"P-256": {tls.CurveP256, true}, "X25519MLKEM768": {tls.X25519MLKEM768, true}, "X25519": {tls.X25519, false}} {
		c, err := tls.Dial("tcp", strings.TrimPrefix(ready.URL, "https://"), &tls.Config{RootCAs: pool, CurvePreferences: []tls.CurveID{tc.offered}})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			c.Close()
		}
	}
}
