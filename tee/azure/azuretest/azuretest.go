// Package azuretest plays whole Azure confidential VMs for tests: simulated
// hardware, paravisor and vTPM with the release attester on top.
//
// Trust zone: tests only.
package azuretest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/attester"
	"github.com/cofferproject/coffer/tee/azure/sim"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/snp"
	snpsim "github.com/cofferproject/coffer/tee/snp/sim"
)

// Note is the simulation note of everything here.
const Note = "test: no hardware"

// AK gives one attestation key for all tests of a process: making it is slow.
var AK = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// Guest is a booted VM.
type Guest struct {
	VTPM *sim.VTPM
	Att  *attester.Attester
}

// Boot boots a VM over the hardware of o; a digest, if given, is bound to PCR 8.
func Boot(t testing.TB, o sim.Options, initdata *[32]byte) *Guest {
	t.Helper()
	if o.AK == nil {
		o.AK = AK()
	}
	if o.PCRs == ([azure.PCRCount][32]byte{}) {
		o.PCRs = sim.ResetPCRs()
	}
	v, err := sim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if initdata != nil {
		if err := v.Extend(8, *initdata); err != nil {
			t.Fatal(err)
		}
	}
	a, err := attester.New(v, attester.Options{Metadata: Metadata{v}, Simulation: Note, Poll: time.Millisecond, Wait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return &Guest{v, a}
}

// Evidence attests to report data.
func (g *Guest) Evidence(t testing.TB, reportData []byte) json.RawMessage {
	t.Helper()
	e, err := g.Att.Evidence(context.Background(), reportData, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Metadata is the way to a simulated metadata service.
type Metadata struct{ V *sim.VTPM }

// Do implements attester.Metadata.
func (m Metadata) Do(_ context.Context, r *attester.Request) ([]byte, error) {
	if r.URL == azure.AMDCertificates && (r.Method != "GET" || r.Header["Metadata"] != "true") || r.URL == azure.IntelQuote && r.Method != "POST" {
		return nil, errors.New("the metadata service refuses")
	}
	return m.V.Metadata(r.URL, r.Body)
}

// TD is a TD on a simulated machine.
type TD struct {
	Platform *intelsim.Platform
	Body     quote.TD // without report data
}

var _ sim.TDHardware = (*TD)(nil)

// Offsets in a TDREPORT.
const (
	offData = 128
	offTCB  = 264
	offInfo = 512
)

// TDReport implements sim.TDHardware.
func (d *TD) TDReport(data [64]byte) ([]byte, error) {
	b := make([]byte, azure.TDReportSize)
	b[0] = 0x81
	copy(b[offData:], data[:])
	body := d.Body.Bytes()
	copy(b[offTCB:offTCB+120], body[:120])   // SVN, module, its signer and attributes
	copy(b[offInfo:offInfo+400], body[120:]) // attributes to RTMR 3
	return b, nil
}

// Quote implements sim.TDHardware.
func (d *TD) Quote(report []byte) ([]byte, error) {
	td := d.Body
	copy(td.ReportData[:], report[offData:])
	return d.Platform.QuoteTD(&td, 4)
}

// SNPMachine is a machine of tee/snp/sim with its root, one for all tests of a
// process: its keys take seconds to make.
type SNPMachine struct {
	Authority *snpsim.Authority
	Chip      *snpsim.Chip
}

// SNPHardware gives that machine.
var SNPHardware = sync.OnceValue(func() *SNPMachine {
	a, err := snpsim.NewAuthority(time.Now())
	if err != nil {
		panic(err)
	}
	c, err := a.Chip(snpsim.Milan, snpsim.Milan.DefaultTCB(), time.Now())
	if err != nil {
		panic(err)
	}
	return &SNPMachine{a, c}
})

// Launch starts a guest on the machine.
func (m *SNPMachine) Launch(t testing.TB, policy snp.Policy) *snpsim.Machine {
	t.Helper()
	g, err := m.Chip.Launch(snpsim.Guest{Digest: [48]byte{1, 2, 3}, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Bent is a machine whose reports are changed before the chip signs them.
type Bent struct {
	*snpsim.Machine
	Chip *snpsim.Chip
	Bend func(*snp.Report)
}

// Report implements attest.Reporter.
func (b *Bent) Report(ctx context.Context, data []byte) (raw, table []byte, err error) {
	raw, table, err = b.Machine.Report(ctx, data)
	if err != nil {
		return nil, nil, err
	}
	r, err := snp.ParseReport(raw)
	if err != nil {
		return nil, nil, err
	}
	b.Bend(r)
	raw, err = b.Chip.Sign(r)
	return raw, table, err
}

// Quote signs any statement with AK, as a hostile guest with access to the vTPM
// may have it quote what it likes.
func Quote(att *tpm2.TPMSAttest) (sig, msg []byte, err error) {
	msg = tpm2.Marshal(*att)
	sum := sha256.Sum256(msg)
	sig, err = rsa.SignPKCS1v15(rand.Reader, AK(), crypto.SHA256, sum[:])
	return sig, msg, err
}
