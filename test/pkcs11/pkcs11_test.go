// Package pkcs11_test has the trustee's envelope key wrapped by a key in a token of
// SoftHSM, through coffer-pkcs11: the real programs and the real library.
//
// Trust zone: tests only.
package pkcs11_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/test/child"
	"github.com/cofferproject/coffer/trustee/keyservices"
	"github.com/cofferproject/coffer/trustee/server"
)

const pin = "135790"

// hsm is a token and the helper that serves a key in it.
type hsm struct {
	t           *testing.T
	bin, dir    string
	module      string
	socket      string
	env         []string
	helper      *exec.Cmd
	helperFlags []string
}

func newHSM(t *testing.T) *hsm {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
	if err != nil || len(found) != 1 {
		t.Fatalf("SoftHSM: %v, %v (scripts/deps.sh installs it)", found, err)
	}
	h := &hsm{t: t, dir: t.TempDir(), bin: filepath.Join(t.TempDir(), "coffer-pkcs11"), module: found[0]}
	build := exec.Command("go", "build", "-o", h.bin, "./cmd/coffer-pkcs11")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	conf := filepath.Join(h.dir, "softhsm2.conf")
	h.env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	write(t, conf, "directories.tokendir = "+h.dir+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	write(t, filepath.Join(h.dir, "pin"), pin+"\n")
	h.socket = filepath.Join(h.dir, "s")
	init := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "coffer", "--so-pin", "24680", "--pin", pin)
	init.Env = h.env
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("making a token: %v: %s", err, out)
	}
	h.helperFlags = []string{"--module", h.module, "--token", "coffer", "--pin-file", filepath.Join(h.dir, "pin"), "--key", "envelope"}
	return h
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs the helper to its end.
func (h *hsm) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, h.bin, args...)
	c.Env = h.env
	out, err := c.CombinedOutput()
	return string(out), err
}

func (h *hsm) makeKey() {
	h.t.Helper()
	if out, err := h.run(append([]string{"make-key"}, h.helperFlags...)...); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

func (h *hsm) serve() {
	h.t.Helper()
	h.start("serve", "--listen", h.socket, "--key", "envelope")
}

// start starts a command of the helper that serves.
func (h *hsm) start(command string, flags ...string) {
	h.t.Helper()
	h.helper = exec.Command(h.bin, append(append([]string{command}, h.where()...), flags...)...)
	h.helper.Env = h.env
	var log bytes.Buffer
	h.helper.Stderr = &log
	out, err := h.helper.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := child.Start(h.helper, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		h.t.Fatalf("the helper says %q, %v: %s", line, err, log.String())
	}
}

func (h *hsm) stop() {
	if h.helper != nil {
		_ = h.helper.Process.Signal(os.Interrupt)
		_ = h.helper.Wait()
		h.helper = nil
	}
}

func (h *hsm) spec() string { return "pkcs11:" + h.socket + "?key=envelope" }

// TestEnvelopeKeyInHSM starts a trustee whose envelope key only a token can unwrap.
func TestEnvelopeKeyInHSM(t *testing.T) {
	h := newHSM(t)
	h.makeKey()
	h.serve()
	cfg := server.Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now, KeyService: h.spec(),
	}
	use := func(what string, fn func(c *trusteeclient.Client)) {
		t.Helper()
		s, err := server.Start(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer s.Close(context.WithoutCancel(t.Context()))
		at, err := trusteeclient.LoadConfig(cfg.State)
		if err != nil {
			t.Fatal(err)
		}
		c, err := trusteeclient.DialConfig(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fn(c)
	}
	const name = "default/db/password"
	use("first start", func(c *trusteeclient.Client) {
		if _, err := c.Namespace("default").PutResource(t.Context(), name, []byte("hunter2")); err != nil {
			t.Fatal(err)
		}
	})
	file := filepath.Join(cfg.State, "envelope.key")
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(`"service": "pkcs11:envelope"`)) {
		t.Fatalf("%s, %v", b, err)
	}
	h.stop()
	if s, err := server.Start(t.Context(), cfg); err == nil {
		s.Close(t.Context())
		t.Fatal("started without the helper")
	}
	h.serve() // another process, the same token
	use("after a restart of both", func(c *trusteeclient.Client) {
		l, err := c.Namespace("default").ListResources(t.Context())
		if err != nil || len(l) != 1 || l[0].Name != name {
			t.Errorf("%+v, %v", l, err)
		}
	})
	// Another token's key does not unwrap it.
	h.stop()
	other := newHSM(t)
	other.makeKey()
	other.serve()
	cfg.KeyService = other.spec()
	if s, err := server.Start(t.Context(), cfg); err == nil {
		s.Close(t.Context())
		t.Fatal("started with another token's key of the same name")
	} else if !strings.Contains(err.Error(), "422") {
		t.Error(err)
	}
}

func TestWrapKey(t *testing.T) {
	h := newHSM(t)
	h.makeKey()
	if out, err := h.run(append([]string{"make-key"}, h.helperFlags...)...); err == nil || !strings.Contains(out, "has a key") {
		t.Errorf("a second key of the name: %v: %s", err, out)
	}
	h.serve()
	s, err := keyservices.Open(t.Context(), h.spec())
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{9}, 32)
	wrapped, err := s.Wrap(t.Context(), key, []byte("place"))
	if err != nil || bytes.Contains(wrapped, key) {
		t.Fatalf("%x, %v", wrapped, err)
	}
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	changed := bytes.Clone(wrapped)
	changed[len(changed)-1] ^= 1
	for what, x := range map[string]struct{ wrapped, aad []byte }{
		"another place": {wrapped, []byte("x")}, "changed": {changed, []byte("place")}, "short": {wrapped[:20], []byte("place")}, "empty": {nil, nil},
	} {
		if got, err := s.Unwrap(t.Context(), x.wrapped, x.aad); err == nil {
			t.Errorf("%s: %x", what, got)
		}
	}
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil || !bytes.Equal(got, key) {
		t.Errorf("after refusals: %x, %v", got, err)
	}
	if err := os.Chmod(h.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("a socket for everybody: %v", err)
	}
	for _, spec := range []string{"pkcs11:", "pkcs11:relative?key=x", "pkcs11:/s", "pkcs11:/s?key=../x", "pkcs11:/s?key=x&pin=1", "pkcs11://host/s?key=x"} {
		if _, err := keyservices.Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
}

func TestHelperRefuses(t *testing.T) {
	h := newHSM(t)
	listen := []string{"serve", "--listen", h.socket}
	with := func(changes map[string]string) []string {
		out := append([]string{}, h.helperFlags...)
		for i := 0; i < len(out); i += 2 {
			if v, ok := changes[out[i]]; ok {
				out[i+1] = v
			}
		}
		return out
	}
	open := filepath.Join(h.dir, "open-pin")
	if err := os.WriteFile(open, []byte(pin), 0o644); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(h.dir, "wrong-pin")
	write(t, wrong, "000000")
	for what, x := range map[string]struct {
		args []string
		want string
	}{
		"no such key":          {with(nil), "0 AES keys"},
		"no such token":        {with(map[string]string{"--token": "other"}), "0 tokens"},
		"no such module":       {with(map[string]string{"--module": "/none.so"}), "cannot be loaded"},
		"a wrong PIN":          {with(map[string]string{"--pin-file": wrong}), "PIN_INCORRECT"},
		"a PIN for everybody":  {with(map[string]string{"--pin-file": open}), "read by others"},
		"no PIN":               {with(map[string]string{"--pin-file": filepath.Join(h.dir, "none")}), "no such file"},
		"something left over":  {append(with(nil), "more"), "no arguments"},
		"a flag without value": {[]string{"--module", h.module}, "are needed"},
	} {
		out, err := h.run(append(listen, x.args...)...)
		if err == nil || !strings.Contains(out, x.want) {
			t.Errorf("%s: %v: %s", what, err, out)
		}
		if strings.Contains(out, pin) {
			t.Errorf("%s: the PIN is shown: %s", what, out)
		}
	}
	h.makeKey()
	h.serve()
	if out, err := h.run(append(listen, with(nil)...)...); err == nil || !strings.Contains(out, "somebody serves it") {
		t.Errorf("a second helper: %v: %s", err, out)
	}
	if fi, err := os.Stat(h.socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", fi.Mode(), err)
	}
}
