package sim_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/attester"
	"github.com/cofferproject/coffer/tee/cca/measure"
	"github.com/cofferproject/coffer/tee/cca/sim"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

func arm64Image(n int, offset, size uint64) []byte {
	b := pattern(n, 3)
	binary.LittleEndian.PutUint64(b[8:], offset)
	binary.LittleEndian.PutUint64(b[16:], size)
	copy(b[56:], "ARM\x64")
	return b
}

func machine(t testing.TB, in *sim.Inputs) *sim.Machine {
	t.Helper()
	key, _, err := sim.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m, err := sim.New(key, in, "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What the model computes of its inputs is what the calculator says of the same
// launch; the two share no code. A change of any input changes it.
func TestMeasuresLikeTheCalculator(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for name, in := range map[string]sim.Inputs{
		"plain":     {Kernel: pattern(3<<20+5, 1), Initrd: pattern(1<<20+17, 2), Cmdline: "console=ttyS0 quiet", MemoryMiB: 512, VCPUs: 2},
		"kernel":    {Kernel: pattern(3<<20+5, 9), Initrd: pattern(1<<20+17, 2), Cmdline: "console=ttyS0 quiet", MemoryMiB: 512, VCPUs: 2},
		"initrd":    {Kernel: pattern(3<<20+5, 1), Initrd: pattern(1<<20+18, 2), Cmdline: "console=ttyS0 quiet", MemoryMiB: 512, VCPUs: 2},
		"cmdline":   {Kernel: pattern(3<<20+5, 1), Initrd: pattern(1<<20+17, 2), Cmdline: "console=ttyS0 debug", MemoryMiB: 512, VCPUs: 2},
		"vcpus":     {Kernel: pattern(3<<20+5, 1), Initrd: pattern(1<<20+17, 2), Cmdline: "console=ttyS0 quiet", MemoryMiB: 512, VCPUs: 3},
		"memory":    {Kernel: pattern(3<<20+5, 1), Initrd: pattern(1<<20+17, 2), Cmdline: "console=ttyS0 quiet", MemoryMiB: 3072, VCPUs: 2},
		"no initrd": {Kernel: pattern(4096, 1), Cmdline: "", MemoryMiB: 256, VCPUs: 64},
		"arm64":     {Kernel: arm64Image(70000, 0x80000, 5<<20), Initrd: pattern(10, 2), Cmdline: "x", MemoryMiB: 1536, VCPUs: 1},
		"arm64 odd": {Kernel: arm64Image(70000, 0x80100, 200<<20), Initrd: pattern(10, 2), Cmdline: "x", MemoryMiB: 1024, VCPUs: 1},
	} {
		in.RPV = sha512.Sum512([]byte(name)) // is no part of the measurement
		spec := &launch.Spec{TEE: launch.CCASim, Cmdline: in.Cmdline, VCPUs: in.VCPUs, MemoryMiB: in.MemoryMiB}
		for _, f := range []struct {
			to   *launch.File
			name string
			b    []byte
		}{{&spec.Kernel, "kernel", in.Kernel}, {&spec.Initrd, "initrd", in.Initrd}} {
			if f.b == nil {
				continue
			}
			f.to.Path = filepath.Join(dir, f.name)
			if err := os.WriteFile(f.to.Path, f.b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := measure.Compute(spec, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := machine(t, &in).RIM()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: model %x, calculator %x", name, got, want)
		}
		if other, dup := seen[string(got)]; dup {
			t.Errorf("%s and %s measure the same", name, other)
		}
		seen[string(got)] = name
	}
}

func TestRefusesNonsense(t *testing.T) {
	key, _, err := sim.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]*sim.Inputs{
		"no kernel": {MemoryMiB: 256, VCPUs: 1}, "no vCPU": {Kernel: []byte{1}, MemoryMiB: 256},
		"no memory": {Kernel: []byte{1}, VCPUs: 1}, "too large": {Kernel: pattern(3<<20, 1), MemoryMiB: 2, VCPUs: 1},
		"offset": {Kernel: arm64Image(100, 1<<60, 1), MemoryMiB: 256, VCPUs: 1}, "size": {Kernel: arm64Image(100, 0, 1<<63), MemoryMiB: 256, VCPUs: 1},
	} {
		if _, err := sim.New(key, in, ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// An independent COSE library verifies both messages.
func TestTokenIsCOSE(t *testing.T) {
	key, cert, err := sim.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m, err := sim.New(key, &sim.Inputs{Kernel: pattern(100, 1), MemoryMiB: 256, VCPUs: 1}, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Token([64]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	var tag struct {
		Platform []byte `cbor:"44234,keyasint"`
	}
	var raw cbor.RawTag
	if err := cbor.Unmarshal(b, &raw); err != nil || raw.Number != 399 {
		t.Fatalf("%v, tag %d", err, raw.Number)
	}
	if err := cbor.Unmarshal(raw.Content, &tag); err != nil {
		t.Fatal(err)
	}
	var msg cose.Sign1Message
	if err := msg.UnmarshalCBOR(tag.Platform); err != nil {
		t.Fatal(err)
	}
	v, err := cose.NewVerifier(cose.AlgorithmES384, cert.PublicKey.(crypto.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.Verify(nil, v); err != nil {
		t.Error(err)
	}
}

// The release attester works on the model as on the kernel's device.
func TestAttester(t *testing.T) {
	in := &sim.Inputs{Kernel: pattern(100, 1), MemoryMiB: 256, VCPUs: 1, RPV: [64]byte{7, 63: 9}}
	m := machine(t, in)
	a, err := attester.New(m, attester.Options{Simulation: m.Note()})
	if err != nil {
		t.Fatal(err)
	}
	rpv, err := a.InitdataRegister(context.Background())
	if err != nil || !bytes.Equal(rpv, in.RPV[:]) || !bytes.Equal(rpv, m.InitdataRegister()) {
		t.Errorf("register %x, %v", rpv, err)
	}
	b, err := a.Evidence(context.Background(), []byte{1, 2, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := cca.Parse(b)
	if err != nil || e.Simulation != m.Note() {
		t.Fatalf("%v, %v", e, err)
	}
	if c, err := cca.Challenge(e.Token); err != nil || !bytes.Equal(c, append([]byte{1, 2, 3}, make([]byte, 61)...)) {
		t.Errorf("challenge %x, %v", c, err)
	}
	if _, err := attester.New(otherProvider{m}, attester.Options{}); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("another provider: %v", err)
	}
	if a, err := attester.New(stale{m}, attester.Options{}); err != nil {
		t.Error(err)
	} else if _, err := a.Evidence(context.Background(), []byte{1}, nil); err == nil {
		t.Error("a token over another challenge is handed out")
	}
}

type otherProvider struct{ *sim.Machine }

func (otherProvider) Provider() string { return "sev_guest" }

type stale struct{ *sim.Machine }

func (s stale) Report(ctx context.Context, _ []byte) ([]byte, []byte, error) {
	return s.Machine.Report(ctx, make([]byte, 64))
}
