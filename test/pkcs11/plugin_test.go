package pkcs11_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/trustee/plugin"
)

// published starts the published plugin on the token, and a trustee's side of it.
func (h *hsm) published(flags ...string) *plugin.Host {
	h.t.Helper()
	h.start("plugin", append(flags, "--listen", h.socket)...)
	p, err := plugin.New([]plugin.Backend{{Name: "pkcs11", Endpoint: "unix://" + h.socket}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(p.Close)
	return p
}

func (h *hsm) where() []string {
	return []string{"--module", h.module, "--token", "coffer", "--pin-file", filepath.Join(h.dir, "pin")}
}

func ask(t *testing.T, p *plugin.Host, method, path string, body []byte) ([]byte, error) {
	t.Helper()
	return p.Handle(t.Context(), "pkcs11", &plugin.Request{Method: method, Path: strings.Split(path, "/"), Body: body})
}

// TestRSAWrapKey wraps with OAEP and has the token unwrap. SoftHSM knows OAEP with SHA-1
// alone, which the published plugin calls RsaPkcsTest.
func TestRSAWrapKey(t *testing.T) {
	h := newHSM(t)
	if out, err := h.run(append(append([]string{"make-rsa-key"}, h.where()...), "--key", "wrap", "--bits", "2048")...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := h.run(append(append([]string{"make-rsa-key"}, h.where()...), "--key", "wrap")...); err == nil || !strings.Contains(out, "has a key") {
		t.Errorf("a second key of the name: %v: %s", err, out)
	}
	p := h.published("--key", "wrap", "--mechanism", "RsaPkcsTest")
	plain := []byte("thirty-two bytes of a key's bits")
	wrapped, err := ask(t, p, "POST", "wrap-key", plain)
	if err != nil || len(wrapped) != 256 || bytes.Contains(wrapped, plain) {
		t.Fatalf("%x, %v", wrapped, err)
	}
	if got, err := ask(t, p, "GET", "wrap-key", wrapped); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%q, %v", got, err)
	}
	changed := bytes.Clone(wrapped)
	changed[100] ^= 1
	for what, b := range map[string][]byte{"changed": changed, "short": wrapped[:255], "long": append(bytes.Clone(wrapped), 0), "empty": nil} {
		if got, err := ask(t, p, "GET", "wrap-key", b); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
	if got, err := ask(t, p, "POST", "wrap-key", make([]byte, 256-2*20-1)); err == nil {
		t.Errorf("more than fits: %x", got)
	}
	if got, err := ask(t, p, "GET", "wrap-key", wrapped); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("after refusals: %q, %v", got, err)
	}
	// Objects are off, and no path leads to a key.
	for _, path := range []string{"resource/a/b/wrap", "wrap-key/x", "x"} {
		if got, err := ask(t, p, "GET", path, nil); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
	for method, admin := range map[string]bool{"GET": false, "POST": true, "DELETE": true} {
		a, e, err := p.Needs(t.Context(), "pkcs11", &plugin.Request{Method: method, Path: []string{"wrap-key"}})
		if err != nil || a != admin || e == admin {
			t.Errorf("%s: administrator's %t, encrypted %t, %v", method, a, e, err)
		}
	}
	h.stop()
	// With SHA-256 wrapping works, and this module does not unwrap: it says so.
	p = h.published("--key", "wrap")
	if wrapped, err = ask(t, p, "POST", "wrap-key", plain); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, p, "GET", "wrap-key", wrapped); err == nil || !strings.Contains(err.Error(), "422") {
		t.Errorf("%q, %v", got, err)
	}
}

// TestForeignWrap has the token unwrap what another implementation wrapped, for a key
// that another program made, and refuses one that can leave the token.
func TestForeignWrap(t *testing.T) {
	h := newHSM(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.dir, "key.pem")
	write(t, file, pemText("PRIVATE KEY", der))
	c := exec.Command("softhsm2-util", "--import", file, "--token", "coffer", "--pin", pin, "--label", "foreign", "--id", "01")
	c.Env = h.env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := h.published("--key", "foreign", "--mechanism", "RsaPkcsTest")
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &key.PublicKey, []byte("a key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, p, "GET", "wrap-key", wrapped); err != nil || string(got) != "a key" {
		t.Errorf("%q, %v", got, err)
	}
	wrapped, err = ask(t, p, "POST", "wrap-key", []byte("another key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rsa.DecryptOAEP(sha1.New(), nil, key, wrapped, nil); err != nil || string(got) != "another key" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestObjects keeps secrets in the token, through a restart, and never a key of its own.
func TestObjects(t *testing.T) {
	h := newHSM(t)
	h.makeKey() // an AES key "envelope" in the same token
	p := h.published("--objects")
	set := func(path, v string) {
		t.Helper()
		if _, err := ask(t, p, "POST", path, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	get := func(path, want string) {
		t.Helper()
		if got, err := ask(t, p, "GET", path, nil); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	absent := func(path string) {
		t.Helper()
		if got, err := ask(t, p, "GET", path, nil); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
	absent("resource/default/db/password")
	set("resource/default/db/password", "hunter2")
	set("resource/default/db/other", "else")
	get("resource/default/db/password", "hunter2")
	set("resource/default/db/password", "hunter3")
	get("resource/default/db/password", "hunter3")
	h.stop()
	p = h.published("--objects")
	get("resource/default/db/password", "hunter3")
	get("resource/default/db/other", "else")
	if _, err := ask(t, p, "DELETE", "resource/default/db/password", nil); err != nil {
		t.Error(err)
	}
	absent("resource/default/db/password")
	get("resource/default/db/other", "else")
	if _, err := ask(t, p, "DELETE", "resource/default/db/password", nil); err == nil {
		t.Error("deleted twice")
	}
	for _, path := range []string{"resource/envelope", "resource/a/b", "resource/a/b/c/d", "resource/../b/c", "wrap-key", "resource/.a/b/c"} {
		absent(path)
	}
	for what, b := range map[string][]byte{"nothing": nil, "too much": make([]byte, 64<<10+1)} {
		if _, err := ask(t, p, "POST", "resource/a/b/c", b); err == nil {
			t.Errorf("%s is kept", what)
		}
	}
	h.stop()
	for want, flags := range map[string][]string{
		"--key, --objects or both": nil, "0 such RSA keys": {"--key", "none"}, "neither": {"--key", "envelope", "--mechanism", "RsaPkcs"},
	} {
		out, err := h.run(append(append([]string{"plugin", "--listen", h.socket}, h.where()...), flags...)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v: %s", flags, err, out)
		}
	}
}
