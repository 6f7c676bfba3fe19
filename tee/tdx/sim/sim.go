// Package sim plays the hardware of one Intel TD: what the TDX module, EDK2's
// IntelTdxX64 and Linux's EFI stub would have measured of a machine's inputs, and
// quotes over it in the real format, signed under a root made for that machine
// (tee/intel/sim). It protects nothing, and its note says so.
//
// What the running QEMU has (kernel, initrd, command line, memory, vCPUs,
// initdata) is measured here by code of its own: nothing of tee/tdx/measure
// computes it, so that the two can be held against each other. What follows from
// the firmware image alone is measure's: MRTD, the layout of sections, the
// variables and boot entries.
//
// Invariants: a machine's launch registers never change; run-time registers
// only by extension; a quote has the registers as they are.
//
// Trust zone: simulated hardware (coffer-simhw) and tests; no guest links it.
package sim

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cofferproject/coffer/tee/eventlog"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx/measure"
)

// logArea is the size of the ACPI table's area for the log; what is unused is 0xff.
const logArea = 64 << 10

// Register is the value of MRTD, MRCONFIGID or an RTMR.
type Register = [sha512.Size384]byte

// Inputs are what the machine runs.
type Inputs struct {
	// From the running QEMU.
	Kernel, Initrd []byte
	Cmdline        string
	MemoryMiB      int
	VCPUs          int
	// InitdataDigest is the SHA-384 of the plain document; nil: no device.
	InitdataDigest []byte
	// Firmware is the TDVF image that hardware would run, from the LaunchSpec.
	Firmware *measure.Firmware
}

// Machine is one simulated TD. It is safe for concurrent use.
type Machine struct {
	platform *intelsim.Platform
	mrtd     Register
	config   Register
	log      []byte
	note     string

	mu   sync.Mutex
	rtmr [eventlog.RTMRs]Register
}

// New measures the inputs.
func New(p *intelsim.Platform, in Inputs) (*Machine, error) {
	if p == nil || in.Firmware == nil {
		return nil, errors.New("simulated TD: no platform or no firmware")
	}
	m := &Machine{platform: p, mrtd: Register(in.Firmware.MRTD())}
	if in.InitdataDigest != nil {
		if len(in.InitdataDigest) != len(m.config) {
			return nil, fmt.Errorf("simulated TD: initdata digest of %d bytes, want SHA-384", len(in.InitdataDigest))
		}
		m.config = Register(in.InitdataDigest)
	}
	b := boot{m: m, log: eventlog.SpecHeader(eventlog.SHA384)}
	if err := b.run(&in); err != nil {
		return nil, fmt.Errorf("simulated TD: %w", err)
	}
	if len(b.log) > logArea {
		return nil, fmt.Errorf("simulated TD: log of %d bytes", len(b.log))
	}
	m.log = append(b.log, bytes.Repeat([]byte{0xff}, logArea-len(b.log))...)
	m.note = note(in.Firmware)
	return m, nil
}

// note is the simulation note: what is not real.
func note(f *measure.Firmware) string {
	parts := []string{
		"simulated TDX, protects nothing: signed under a root made on this machine",
		"firmware from the launch spec, measured and not run",
		"ACPI tables: only the one that names the vCPUs",
		"boot entries: only the firmware's menu",
	}
	if f.MeasuresSMBIOS() {
		parts = append(parts, "SMBIOS tables: not measured")
	}
	if _, on := f.SecureBoot(); on {
		parts = append(parts, "secure boot: its keys are measured, the kernel's signature is not checked")
	}
	return strings.Join(parts, "; ")
}

// Note says what of the machine is not real, for the evidence's member
// "simulation".
func (m *Machine) Note() string { return m.note }

// CCEL is the firmware's event log as the ACPI table shows it.
func (m *Machine) CCEL() []byte { return slices.Clone(m.log) }

// MRTD is the launch digest.
func (m *Machine) MRTD() Register { return m.mrtd }

// MRConfigID is the register that binds initdata; zero without.
func (m *Machine) MRConfigID() Register { return m.config }

// RTMR gives a run-time register, 0 to 3.
func (m *Machine) RTMR(i int) (Register, error) {
	if i < 0 || i >= len(m.rtmr) {
		return Register{}, fmt.Errorf("simulated TD: no RTMR %d", i)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rtmr[i], nil
}

// Extend extends a run-time register with a SHA-384 digest.
func (m *Machine) Extend(i int, digest []byte) error {
	if i < 0 || i >= len(m.rtmr) || len(digest) != len(m.rtmr[0]) {
		return fmt.Errorf("simulated TD: extending RTMR %d with %d bytes", i, len(digest))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rtmr[i] = sha512.Sum384(append(m.rtmr[i][:], digest...))
	return nil
}

// Quote signs the registers and reportData: a quote of version 4.
func (m *Machine) Quote(reportData [64]byte) ([]byte, error) {
	td := m.platform.TD()
	td.MRTD, td.MRConfigID, td.ReportData = m.mrtd, m.config, reportData
	m.mu.Lock()
	td.RTMR = m.rtmr
	m.mu.Unlock()
	q, err := m.platform.QuoteTD(&td, 4)
	if err != nil {
		return nil, fmt.Errorf("simulated TD: %w", err)
	}
	return q, nil
}

// Provider is the kernel's name of the device (attest.Reporter).
func (*Machine) Provider() string { return "tdx_guest" }

// Report is Quote in the shape of the kernel's configfs-tsm (attest.Reporter).
func (m *Machine) Report(_ context.Context, inblob []byte) (outblob, auxblob []byte, err error) {
	if len(inblob) != 64 {
		return nil, nil, fmt.Errorf("simulated TD: report data of %d bytes, want 64", len(inblob))
	}
	q, err := m.Quote([64]byte(inblob))
	return q, nil, err
}
