package snp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Report is an ATTESTATION_REPORT. Numbers are as in the firmware ABI; R and S
// are little-endian, as the hardware writes them.
type Report struct {
	Version         uint32
	GuestSVN        uint32
	Policy          Policy
	FamilyID        [16]byte
	ImageID         [16]byte
	VMPL            uint32
	SigAlgo         uint32
	CurrentTCB      TCB
	PlatformInfo    PlatformInfo
	KeyInfo         KeyInfo
	ReportData      [64]byte
	Measurement     [48]byte
	HostData        [HostDataSize]byte
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
	ReportID        [32]byte
	ReportIDMA      [32]byte
	ReportedTCB     TCB
	// CPU is there from version 3 on.
	CPU          *CPUID
	ChipID       [64]byte
	CommittedTCB TCB
	Current      Firmware
	Committed    Firmware
	LaunchTCB    TCB
	// LaunchMit and CurrentMit are mitigation vectors, from version 5 on.
	LaunchMit  *uint64
	CurrentMit *uint64
	R, S       [72]byte

	// left says which optional members the JSON form left out, so that it is
	// written again as it was read.
	left leftOut
}

type leftOut uint8

const (
	leftCPU leftOut = 1 << iota
	leftMit
	leftFMC
)

// CPUID names the processor: family and model with their extensions added.
type CPUID struct{ Family, Model, Stepping uint8 }

// Firmware is a version of the secure processor's firmware.
type Firmware struct{ Major, Minor, Build uint8 }

// AtMost reports whether f is no newer than o.
func (f Firmware) AtMost(o Firmware) bool {
	a, b := [3]uint8{f.Major, f.Minor, f.Build}, [3]uint8{o.Major, o.Minor, o.Build}
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return true
}

// String gives "major.minor build n".
func (f Firmware) String() string { return fmt.Sprintf("%d.%d build %d", f.Major, f.Minor, f.Build) }

// Policy is the guest policy that the guest was launched with.
type Policy uint64

// ABIMinor is the least minor version of the firmware ABI.
func (p Policy) ABIMinor() uint8 { return uint8(p) }

// ABIMajor is its major version.
func (p Policy) ABIMajor() uint8 { return uint8(p >> 8) }

// SMT says that hyperthreading is allowed.
func (p Policy) SMT() bool { return p>>16&1 != 0 }

// WellFormed says that the bit that is always set is, reserved ones are not.
func (p Policy) WellFormed() bool { return p>>17&1 != 0 && p>>26 == 0 }

// MigrateMA says that a migration agent is allowed.
func (p Policy) MigrateMA() bool { return p>>18&1 != 0 }

// Debug says that the host may read the guest's memory.
func (p Policy) Debug() bool { return p>>19&1 != 0 }

// SingleSocket says that the guest runs on one socket.
func (p Policy) SingleSocket() bool { return p>>20&1 != 0 }

// CXL says that memory and devices on CXL are allowed.
func (p Policy) CXL() bool { return p>>21&1 != 0 }

// AES256XTS says that memory encryption must be AES-256-XTS.
func (p Policy) AES256XTS() bool { return p>>22&1 != 0 }

// RAPLDisabled says that power metering must be off.
func (p Policy) RAPLDisabled() bool { return p>>23&1 != 0 }

// CiphertextHidingDRAM says that hiding of ciphertext must be on.
func (p Policy) CiphertextHidingDRAM() bool { return p>>24&1 != 0 }

// PageSwapDisabled says that pages may be neither moved nor swapped.
func (p Policy) PageSwapDisabled() bool { return p>>25&1 != 0 }

// PlatformInfo is what the platform says of itself; bits that are not known
// here are left to policies.
type PlatformInfo uint64

// SMT says that hyperthreading is on.
func (p PlatformInfo) SMT() bool { return p&1 != 0 }

// TSME says that all memory is encrypted.
func (p PlatformInfo) TSME() bool { return p>>1&1 != 0 }

// ECC says that memory has error correction.
func (p PlatformInfo) ECC() bool { return p>>2&1 != 0 }

// RAPLDisabled says that power metering is off.
func (p PlatformInfo) RAPLDisabled() bool { return p>>3&1 != 0 }

// CiphertextHidingDRAM says that ciphertext is hidden from the host.
func (p PlatformInfo) CiphertextHidingDRAM() bool { return p>>4&1 != 0 }

// AliasCheckComplete says that memory was checked for aliases (BadRAM).
func (p PlatformInfo) AliasCheckComplete() bool { return p>>5&1 != 0 }

// KeyInfo says which key signed.
type KeyInfo uint32

// Signing keys.
const (
	KeyVCEK = 0
	KeyVLEK = 1
	KeyNone = 7
)

// AuthorKey says that the ID key was signed by an author key.
func (k KeyInfo) AuthorKey() bool { return k&1 != 0 }

// ChipKeyMasked says that the host chose to hide the chip id.
func (k KeyInfo) ChipKeyMasked() bool { return k>>1&1 != 0 }

// SigningKey is KeyVCEK, KeyVLEK, KeyNone or reserved.
func (k KeyInfo) SigningKey() uint8 { return uint8(k >> 2 & 7) }

// WellFormed says that no reserved bit is set.
func (k KeyInfo) WellFormed() bool { return k>>5 == 0 }

// Offsets of the binary form.
const (
	offCPUID  = 0x188
	offChipID = 0x1A0
	offMit    = 0x1F8
	offR      = 0x2A0
	offS      = 0x2E8
	offEnd    = 0x330
)

// reserved lists the bytes that are zero in every version: the published
// evidence does not carry them.
var reserved = [][2]int{{0x4C, 0x50}, {0x18B, 0x1A0}, {0x1EB, 0x1EC}, {0x1EF, 0x1F0}, {0x208, 0x2A0}, {offEnd, ReportSize}}

// ParseReport reads the binary form. It refuses what the published evidence
// cannot carry: other versions, reserved bytes that are not zero.
func ParseReport(raw []byte) (*Report, error) {
	if len(raw) != ReportSize {
		return nil, fmt.Errorf("snp report: %d bytes, not %d", len(raw), ReportSize)
	}
	le := binary.LittleEndian
	r := &Report{
		Version: le.Uint32(raw), GuestSVN: le.Uint32(raw[4:]), Policy: Policy(le.Uint64(raw[8:])),
		VMPL: le.Uint32(raw[0x30:]), SigAlgo: le.Uint32(raw[0x34:]), PlatformInfo: PlatformInfo(le.Uint64(raw[0x40:])),
		KeyInfo: KeyInfo(le.Uint32(raw[0x48:])),
		Current: Firmware{raw[0x1EA], raw[0x1E9], raw[0x1E8]}, Committed: Firmware{raw[0x1EE], raw[0x1ED], raw[0x1EC]},
	}
	if r.Version < MinVersion || r.Version > MaxVersion {
		return nil, fmt.Errorf("snp report: %w %d", ErrVersion, r.Version)
	}
	for _, p := range reserved {
		if !zero(raw[p[0]:p[1]]) {
			return nil, fmt.Errorf("snp report: reserved bytes at %#x are not zero", p[0])
		}
	}
	for _, f := range r.arrays() {
		copy(f.b, raw[f.off:])
	}
	if r.Version >= 3 {
		r.CPU = &CPUID{raw[offCPUID], raw[offCPUID+1], raw[offCPUID+2]}
	} else if !zero(raw[offCPUID : offCPUID+3]) {
		return nil, errors.New("snp report: processor named in version 2")
	}
	if r.Version >= 5 {
		a, b := le.Uint64(raw[offMit:]), le.Uint64(raw[offMit+8:])
		r.LaunchMit, r.CurrentMit = &a, &b
	} else if !zero(raw[offMit : offMit+16]) {
		return nil, fmt.Errorf("snp report: mitigation vectors in version %d", r.Version)
	}
	fmc := r.expectFMC()
	for _, t := range r.tcbs() {
		var err error
		if *t.tcb, err = ParseTCB([8]byte(raw[t.off:t.off+8]), fmc); err != nil {
			return nil, fmt.Errorf("snp report: at %#x: %w", t.off, err)
		}
	}
	return r, nil
}

// ErrVersion says that the report has a version that is not known here.
var ErrVersion = errors.New("unknown version")

// Bytes gives the binary form.
func (r *Report) Bytes() []byte {
	raw := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(raw, r.Version)
	le.PutUint32(raw[4:], r.GuestSVN)
	le.PutUint64(raw[8:], uint64(r.Policy))
	le.PutUint32(raw[0x30:], r.VMPL)
	le.PutUint32(raw[0x34:], r.SigAlgo)
	le.PutUint64(raw[0x40:], uint64(r.PlatformInfo))
	le.PutUint32(raw[0x48:], uint32(r.KeyInfo))
	copy(raw[0x1E8:], []byte{r.Current.Build, r.Current.Minor, r.Current.Major, 0, r.Committed.Build, r.Committed.Minor, r.Committed.Major, 0})
	for _, f := range r.arrays() {
		copy(raw[f.off:], f.b)
	}
	for _, t := range r.tcbs() {
		b := t.tcb.Bytes()
		copy(raw[t.off:], b[:])
	}
	if r.CPU != nil {
		copy(raw[offCPUID:], []byte{r.CPU.Family, r.CPU.Model, r.CPU.Stepping})
	}
	if r.LaunchMit != nil && r.CurrentMit != nil {
		le.PutUint64(raw[offMit:], *r.LaunchMit)
		le.PutUint64(raw[offMit+8:], *r.CurrentMit)
	}
	return raw
}

type array struct {
	off int
	b   []byte
}

func (r *Report) arrays() [12]array {
	return [12]array{
		{0x10, r.FamilyID[:]}, {0x20, r.ImageID[:]}, {0x50, r.ReportData[:]}, {0x90, r.Measurement[:]}, {0xC0, r.HostData[:]},
		{0xE0, r.IDKeyDigest[:]}, {0x110, r.AuthorKeyDigest[:]}, {0x140, r.ReportID[:]}, {0x160, r.ReportIDMA[:]}, {offChipID, r.ChipID[:]},
		{offR, r.R[:]}, {offS, r.S[:]},
	}
}

type tcbAt struct {
	off int
	tcb *TCB
}

func (r *Report) tcbs() [4]tcbAt {
	return [4]tcbAt{{0x38, &r.CurrentTCB}, {0x180, &r.ReportedTCB}, {0x1E0, &r.CommittedTCB}, {0x1F0, &r.LaunchTCB}}
}

// expectFMC tells the layout of the TCB versions: by the processor's family, or
// in version 2 by the chip id, of which Turin uses eight bytes.
func (r *Report) expectFMC() bool {
	if r.CPU != nil {
		return r.CPU.Family == 0x1A
	}
	return zero(r.ChipID[8:]) && !zero(r.ChipID[:8])
}

func zero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return or == 0
}
