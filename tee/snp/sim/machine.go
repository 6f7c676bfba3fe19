package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/snp"
)

// Guest is what the hardware knows of one guest from its launch.
type Guest struct {
	Digest   [48]byte // Digest of Launch
	HostData [32]byte
	Policy   snp.Policy
	GuestSVN uint32
	// IDKeyDigest and AuthorKeyDigest come from an ID block; zero: there was none.
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
}

// Machine is a guest on a chip. It is safe for concurrent use.
type Machine struct {
	chip   *Chip
	report snp.Report // all but the report data
	table  []byte
}

var _ attest.Reporter = (*Machine)(nil)

// Launch starts a guest on the chip.
func (c *Chip) Launch(g Guest) (*Machine, error) {
	if !g.Policy.WellFormed() {
		return nil, fmt.Errorf("simulated launch: guest policy %#x: reserved bits", uint64(g.Policy))
	}
	m := &Machine{chip: c, report: snp.Report{
		Version: c.Generation.Version, GuestSVN: g.GuestSVN, Policy: g.Policy, SigAlgo: 1, PlatformInfo: 1, // SMT
		Measurement: g.Digest, HostData: g.HostData, IDKeyDigest: g.IDKeyDigest, AuthorKeyDigest: g.AuthorKeyDigest,
		CurrentTCB: c.TCB, ReportedTCB: c.TCB, CommittedTCB: c.TCB, LaunchTCB: c.TCB, ChipID: c.ID,
		Current: snp.Firmware{Major: 1, Minor: 55, Build: 40}, Committed: snp.Firmware{Major: 1, Minor: 55, Build: 40},
	}}
	r := &m.report
	if r.Version >= 3 {
		cpu := c.Generation.CPU
		r.CPU = &cpu
	}
	if r.Version >= 5 {
		r.LaunchMit, r.CurrentMit = new(uint64), new(uint64)
	}
	if c.VLEK {
		r.KeyInfo |= snp.KeyVLEK << 2
	}
	if g.AuthorKeyDigest != [48]byte{} {
		r.KeyInfo |= 1
	}
	if _, err := rand.Read(r.ReportID[:]); err != nil {
		return nil, err
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xFF // no migration agent
	}
	var err error
	m.table, err = snp.EncodeTable(c.chain)
	return m, err
}

// Report gives a signed report over reportData, and the certificate table.
func (m *Machine) Report(_ context.Context, reportData []byte) (raw, table []byte, err error) {
	if len(reportData) > 64 {
		return nil, nil, errors.New("simulated report: more than 64 bytes of report data")
	}
	r := m.report
	copy(r.ReportData[:], reportData)
	raw, err = m.chip.Sign(&r)
	return raw, m.table, err
}

// Provider implements attest.Reporter: a guest with the simulated attester takes
// it for the kernel's.
func (m *Machine) Provider() string { return configfs.SNP }

// Note says what is not real, for the evidence's simulation note: firmware and
// model are those of the LaunchSpec, which emulation cannot run.
func Note(firmwareSHA256, cpuModel string) string {
	return fmt.Sprintf("SEV-SNP played by coffer-simhw, nothing is protected; from the LaunchSpec, not from what ran: firmware sha256:%s, vCPU model %s", firmwareSHA256, cpuModel)
}
