package attester_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/attester"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/azure/sim"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

func machine(t testing.TB) *azuretest.TD {
	t.Helper()
	p, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &azuretest.TD{Platform: p, Body: p.TD()}
}

func TestEvidence(t *testing.T) {
	g := azuretest.Boot(t, sim.Options{TD: machine(t)}, nil)
	if g.Att.TEE() != azure.TDX {
		t.Errorf("TEE %s", g.Att.TEE())
	}
	for _, n := range []int{32, 48, 64} {
		rd := bytes.Repeat([]byte{byte(n)}, n)
		e, err := azure.Parse(azure.TDX, g.Evidence(t, rd))
		if err != nil {
			t.Fatal(err)
		}
		h, err := azure.ParseHCL(e.HCLReport)
		if err != nil {
			t.Fatal(err)
		}
		c, err := azure.ParseRuntimeClaims(h.RuntimeClaims)
		if err != nil {
			t.Fatal(err)
		}
		if e.Version != 2 || e.Simulation != azuretest.Note || !bytes.HasPrefix(c.UserData, rd) || e.Quote.PCRs[17][0] != 0xff {
			t.Errorf("%d bytes: %+v", n, e)
		}
	}
	for _, n := range []int{0, 65} {
		if _, err := g.Att.Evidence(context.Background(), make([]byte, n), nil); err == nil {
			t.Errorf("attested to %d bytes", n)
		}
	}
}

// A TPM that is no Azure paravisor's is not taken for one.
func TestNotPresent(t *testing.T) {
	c := tpmtest.Start(t)
	if _, err := attester.Detect(c); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("got %v", err)
	}
	if _, err := attester.New(c, attester.Options{Metadata: azuretest.Metadata{}}); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("got %v", err)
	}
	if _, err := attester.New(c, attester.Options{}); err == nil {
		t.Error("made without a metadata service")
	}
	// A real TPM's memory: written, grown, read.
	b := bytes.Repeat([]byte{5}, 64)
	for range 2 {
		if err := device.WriteNV(c, azure.NVUserData, b); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := device.ReadNV(c, azure.NVUserData, true, 64); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := device.ReadNV(c, azure.NVUserData, true, 63); err == nil {
		t.Error("read more than the limit")
	}
	if err := device.WriteNV(c, azure.NVUserData, b[:32]); err == nil {
		t.Error("wrote into an index of another size")
	}
}

func TestRegisters(t *testing.T) {
	g := azuretest.Boot(t, sim.Options{TD: machine(t)}, nil)
	ctx := context.Background()
	d := sha256.Sum256([]byte("event"))
	if r, err := g.Att.Register(17); err != nil || r != 15 || g.Att.Hash() != "sha256" {
		t.Fatalf("register %d, %v", r, err)
	}
	if err := g.Att.Extend(ctx, 15, d[:]); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(append(make([]byte, 32), d[:]...))
	if got, err := g.Att.Read(ctx, 15); err != nil || [32]byte(got) != want {
		t.Errorf("read %x, %v", got, err)
	}
	for _, pcr := range []int{-1, 4, 8, 11, 12, 16, 17, 18, 23, 24} {
		if err := g.Att.Extend(ctx, pcr, d[:]); !errors.Is(err, attest.ErrUnsupported) {
			t.Errorf("PCR %d: %v", pcr, err)
		}
	}
	if err := device.Extend(g.VTPM, 18, d); !errors.Is(err, tpm2.TPMRCLocality) {
		t.Errorf("PCR 18: %v", err)
	}
	if err := device.BindInitdata(g.VTPM, d); err != nil {
		t.Error(err)
	}
	if err := device.BindInitdata(g.VTPM, d); err == nil {
		t.Error("bound initdata twice")
	}
}

// stubborn is a paravisor that takes no user data.
type stubborn struct{ *sim.VTPM }

func (s stubborn) Send(cmd []byte) ([]byte, error) {
	if len(cmd) > 10 && cmd[9] == 0x37 { // TPM2_NV_Write
		return []byte{0x80, 2, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, nil
	}
	return s.VTPM.Send(cmd)
}

// No evidence rather than one whose report is not bound.
func TestNoSilentFallback(t *testing.T) {
	g := azuretest.Boot(t, sim.Options{TD: machine(t)}, nil)
	a, err := attester.New(stubborn{g.VTPM}, attester.Options{Metadata: azuretest.Metadata{V: g.VTPM}, Poll: time.Millisecond, Wait: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Evidence(context.Background(), make([]byte, 32), nil); err != nil {
		t.Errorf("the report was over these bytes already: %v", err)
	}
	if _, err := a.Evidence(context.Background(), bytes.Repeat([]byte{1}, 32), nil); err == nil || !strings.Contains(err.Error(), "took no user data") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Evidence(ctx, bytes.Repeat([]byte{1}, 32), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// otherKey says that the attestation key is another one than the report's.
type otherKey struct {
	*sim.VTPM
	other *sim.VTPM
}

func (o otherKey) Send(cmd []byte) ([]byte, error) {
	if len(cmd) > 10 && cmd[9] == 0x73 { // TPM2_ReadPublic
		return o.other.Send(cmd)
	}
	return o.VTPM.Send(cmd)
}

func TestKeyOfAnotherReport(t *testing.T) {
	m := machine(t)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a, b := azuretest.Boot(t, sim.Options{TD: m}, nil), azuretest.Boot(t, sim.Options{TD: m, AK: k}, nil)
	if _, err := attester.New(otherKey{a.VTPM, b.VTPM}, attester.Options{Metadata: azuretest.Metadata{V: a.VTPM}}); err == nil || !strings.Contains(err.Error(), "not the one in the HCL report") {
		t.Errorf("got %v", err)
	}
}

// answers is a metadata service that says what it was given.
type answers []byte

func (a answers) Do(context.Context, *attester.Request) ([]byte, error) { return a, nil }

func TestHostileMetadata(t *testing.T) {
	g := azuretest.Boot(t, sim.Options{TD: machine(t)}, nil)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "x", "no quote": `{"quote":""}`, "not base64": `{"quote":"*"}`, "long": `{"quote":"` + strings.Repeat("A", 60<<10) + `"}`,
		"longer than the limit": strings.Repeat(" ", 65<<10) + `{"quote":"AAAA"}`,
	} {
		a, err := attester.New(g.VTPM, attester.Options{Metadata: answers(body), Poll: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Evidence(context.Background(), make([]byte, 32), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
