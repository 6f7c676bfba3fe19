package attester

import (
	"context"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/se/setest"
	"github.com/cofferproject/coffer/tee/se/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// A whole round: challenge, ultravisor, evidence, verdict.
func TestRound(t *testing.T) {
	tags, err := se.ParseTags(make([]byte, se.TagsSize))
	if err != nil {
		t.Fatal(err)
	}
	m, err := setest.New(tags.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	other, err := setest.New(tags.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	s, err := verifier.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	c, err := verifier.NewChallenge(s, []*ecdh.PublicKey{other.HostKey(), m.HostKey()}, tags)
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	a := New(m)
	ev, err := a.Answer(context.Background(), string(nonce), []byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := verifier.HostKeyHash(m.HostKey())
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Config{Config: verify.Config{Kind: verify.Production, AllowUnproven: []string{verifier.Unproven}}, Opener: s, HostKeys: [][]byte{hash}, Images: []*se.Tags{tags}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(&verify.Input{Evidence: ev, Nonce: string(nonce), ReportData: append([]byte{1, 2, 3}, make([]byte, 61)...), Now: time.Now()}); err != nil {
		t.Error(err)
	}
	if _, err := a.Evidence(context.Background(), nil, nil); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("evidence without a challenge: %v", err)
	}
	if _, err := a.Answer(context.Background(), "nonce", nil); err == nil {
		t.Error("a nonce that is no challenge is answered")
	}
	stranger, err := setest.New(tags.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(stranger).Answer(context.Background(), string(nonce), nil); err == nil {
		t.Error("a machine that the request is not for answers it")
	}
}

func TestPresence(t *testing.T) {
	p := filepath.Join(t.TempDir(), "flag")
	if err := guest(p); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no file: %v", err)
	}
	for content, want := range map[string]error{"1\n": nil, "1": nil, "0\n": attest.ErrNotPresent, "": attest.ErrNotPresent, "11\n": attest.ErrNotPresent} {
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := guest(p); !errors.Is(err, want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := OpenKernel(filepath.Join(t.TempDir(), "uv")); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no device: %v", err)
	}
}

// The kernel's header gives these sizes and offsets.
func TestLayout(t *testing.T) {
	var a attestation
	if unsafe.Sizeof(control{}) != 0x40 || unsafe.Sizeof(a) != 0x138 || unsafe.Offsetof(a.userData) != 0x18 || unsafe.Offsetof(a.cuid) != 0x118 || unsafe.Offsetof(a.requestLen) != 0x128 || unsafe.Offsetof(a.userDataLen) != 0x134 {
		t.Errorf("sizes %#x, %#x", unsafe.Sizeof(control{}), unsafe.Sizeof(a))
	}
}
