// Package measure computes what an Intel TD that is launched from given files
// must measure: MRTD from the firmware's TDVF metadata, MRCONFIGID from the
// initdata, RTMR 0 to 2 from the boot path of EDK2's IntelTdxX64 and Linux's EFI
// stub. ../measure/SPEC.md has the formats, the sources and what no vector has
// confirmed. Nothing is booted.
//
// Invariants: each thing that a launch chooses (memory, vCPUs, kernel, command
// line, initrd) has one event of its own, so that a difference names it; a
// firmware that may measure in another way is an error; what must be observed
// and was not given makes a register missing, never guessed.
//
// Trust zone: owner (reference values); linked by no guest.
package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// Result is what a launch must measure. The names of registers are those of the
// published claims.
type Result struct {
	TEE            launch.TEE `json:"tee"`
	FirmwareSHA256 string     `json:"firmware_sha256"`
	MemoryMiB      int        `json:"memory_mib"`
	VCPUs          int        `json:"vcpus"`
	MRTD           Digest     `json:"mr_td"`
	MRConfigID     Digest     `json:"mr_config_id"` // zero: no initdata
	// RTMR0 is nil when Missing says why.
	RTMR0 *Digest `json:"rtmr_0,omitempty"`
	RTMR1 Digest  `json:"rtmr_1"`
	RTMR2 Digest  `json:"rtmr_2"`
	// RTMR3 is zero when the guest starts; events of the attestation agent
	// extend it.
	RTMR3 Digest `json:"rtmr_3"`
	// Events are those of RTMR 0 to 2 in the order of the log, of known
	// registers only.
	Events []Event `json:"events"`
	// Missing says what RTMR 0 needs and was not given.
	Missing []string `json:"missing,omitempty"`
	// Simulated: RTMR 0 is that of SimulatedPlatform, which no hardware has.
	Simulated bool `json:"simulated,omitempty"`
}

// MRTD is the launch digest of a firmware image.
func MRTD(fw []byte) (Digest, error) {
	if len(fw) > MaxFirmware {
		return Digest{}, fmt.Errorf("firmware: %d bytes, at most %d", len(fw), MaxFirmware)
	}
	ss, err := sections(fw)
	if err != nil {
		return Digest{}, err
	}
	return mrtd(fw, ss, false), nil
}

// Expected reads the files of spec and computes what the launch measures. p may
// be nil: for simulated hardware that is SimulatedPlatform, for hardware RTMR 0
// is missing then.
func Expected(spec *launch.Spec, p *Platform) (*Result, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	fwFile := spec.TEEFirmware
	if fwFile.Path == "" {
		fwFile = spec.Firmware
	}
	var b [3][]byte
	for i, f := range []launch.File{fwFile, spec.Kernel, spec.Initrd} {
		var err error
		if f.Path == "" && i == 2 {
			continue
		}
		if b[i], err = f.Read(launch.MaxFile); err != nil {
			return nil, fmt.Errorf("computing measurements: %w", err)
		}
	}
	fw, err := OpenFirmware(b[0])
	if err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	r, err := Compute(spec, fw, b[1], b[2], p)
	if err != nil {
		return nil, fmt.Errorf("computing measurements: %w", err)
	}
	return r, nil
}

// Compute is Expected over contents; of spec it takes the TEE, the command
// line, the sizes and the initdata.
func Compute(spec *launch.Spec, fw *Firmware, kernel, initrd []byte, p *Platform) (*Result, error) {
	sim := spec.TEE == launch.TDXSim
	if spec.TEE != launch.TDX && !sim {
		return nil, fmt.Errorf("%s is not TDX", spec.TEE)
	}
	sum := sha256.Sum256(fw.image)
	r := &Result{TEE: spec.TEE, FirmwareSHA256: hex.EncodeToString(sum[:]), MemoryMiB: spec.MemoryMiB, VCPUs: spec.VCPUs, MRTD: fw.MRTD()}
	if spec.Initdata != nil {
		d, err := initdata.Digest(initdata.SHA384, spec.Initdata)
		if err != nil {
			return nil, err
		}
		r.MRConfigID = Digest(d)
	}
	var err error
	if p == nil && sim {
		if p, err = SimulatedPlatform(fw, spec.VCPUs); err != nil {
			return nil, err
		}
	}
	r.Missing = missing(fw, p, sim)
	if p != nil && p.Simulated != sim {
		return nil, errors.New("the platform of simulated hardware is for simulated hardware alone")
	}
	in := &inputs{kernel, initrd, spec.Cmdline, spec.MemoryMiB}
	var l log
	if len(r.Missing) == 0 {
		if err := l.configuration(fw, in, p); err != nil {
			return nil, err
		}
		d := l.replay(0)
		r.RTMR0, r.Simulated = &d, sim
	}
	if err := l.system(in); err != nil {
		return nil, err
	}
	r.RTMR1, r.RTMR2, r.Events = l.replay(1), l.replay(2), l
	return r, nil
}

// missing says what keeps RTMR 0 from being known.
func missing(fw *Firmware, p *Platform, sim bool) []string {
	if sim {
		return nil
	}
	var out []string
	if fw.secureOn {
		out = append(out, "the event of the key that verified the kernel: secure boot is on in the firmware's variables")
	}
	switch {
	case p == nil:
		out = append(out, "ACPI tables, SMBIOS tables and boot variables of a reference boot")
	case len(p.ACPI) == 0:
		out = append(out, "ACPI tables of a reference boot")
	case len(p.Boot) == 0:
		out = append(out, "boot variables of a reference boot")
	case fw.smbios && len(p.SMBIOS) == 0:
		out = append(out, "SMBIOS tables of a reference boot")
	}
	return out
}

// Difference is one thing that a log measures and that was not expected, or the
// other way round.
type Difference struct {
	Register int    `json:"register"`
	What     string `json:"what"`
	Expected string `json:"expected,omitempty"` // hex; empty: nothing
	Measured string `json:"measured,omitempty"`
}

// Compare names what a TD's log has differently: of each known register the
// events in turn. The log must replay to the quote (eventlog.CheckRTMRs).
func (r *Result) Compare(l *eventlog.Log) []Difference {
	var out []Difference
	for register := range 3 {
		if register == 0 && r.RTMR0 == nil {
			continue
		}
		var want []Event
		for _, e := range r.Events {
			if e.Register == register {
				want = append(want, e)
			}
		}
		for i := range l.Events {
			e := &l.Events[i]
			sum, ok := e.Sum(eventlog.SHA384)
			if e.Register != uint32(register)+1 || !ok {
				continue
			}
			d := Difference{Register: register, What: e.Text(), Measured: hex.EncodeToString(sum)}
			if len(want) > 0 {
				w := want[0]
				want = want[1:]
				if string(w.Digest[:]) == string(sum) {
					continue
				}
				d.What, d.Expected = w.What, w.Digest.String()
			}
			out = append(out, d)
		}
		for _, w := range want {
			out = append(out, Difference{Register: register, What: w.What, Expected: w.Digest.String()})
		}
	}
	return out
}
