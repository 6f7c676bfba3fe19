package attester

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

func TestRuntimeRegisters(t *testing.T) {
	c := tpmtest.Start(t)
	a, err := New(c, Options{EventLogPath: tpmtest.Boot(t, c, nil), AcceptSoftware: acceptAll})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	r, err := a.Register(17) // the published default
	if err != nil || r != 15 || a.Hash() != "sha256" {
		t.Fatalf("register %d, %v", r, err)
	}
	if own, index := a.EventRegister(); own != r || index != 15 {
		t.Errorf("events go to %d, %d in the log", own, index)
	}
	d := sha256.Sum256([]byte("event"))
	if err := a.Extend(ctx, r, d[:]); err != nil {
		t.Fatal(err)
	}
	got, err := a.Read(ctx, r)
	want := sha256.Sum256(append(make([]byte, 32), d[:]...))
	if err != nil || [32]byte(got) != want {
		t.Errorf("read %x, %v", got, err)
	}
	for _, pcr := range []int{-1, 0, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 23, 24} {
		if _, err := a.Register(pcr); pcr != 17 && !errors.Is(err, attest.ErrUnsupported) {
			t.Errorf("PCR %d: %v", pcr, err)
		}
		if err := a.Extend(ctx, pcr, d[:]); !errors.Is(err, attest.ErrUnsupported) {
			t.Errorf("extended PCR %d: %v", pcr, err)
		}
	}
	if err := a.Extend(ctx, 15, d[:31]); err == nil {
		t.Error("extended with 31 bytes")
	}
	if v, err := a.Read(ctx, 8); err != nil || len(v) != 32 {
		t.Errorf("read PCR 8: %x, %v", v, err)
	}
	if _, err := a.Read(ctx, 24); err == nil {
		t.Error("read PCR 24")
	}
}
