package measure

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// ErrUnknownFirmware says that a firmware does not measure in the way that this
// package knows: EDK2's IntelTdxX64 of 2025.05 and later.
var ErrUnknownFirmware = errors.New("unknown firmware")

// Firmware is a TDVF image, unpacked as far as its measurements need.
type Firmware struct {
	image    []byte
	mrtd     Digest
	sections []Section
	cfv      []byte
	secure   []Variable
	secureOn bool
	smbios   bool // measures the SMBIOS tables
	boot     []Variable
}

// OpenFirmware unpacks an image. It keeps b.
func OpenFirmware(b []byte) (*Firmware, error) {
	if len(b) > MaxFirmware {
		return nil, fmt.Errorf("firmware: %d bytes, at most %d", len(b), MaxFirmware)
	}
	f := &Firmware{image: b}
	var err error
	if f.sections, err = sections(b); err != nil {
		return nil, err
	}
	f.mrtd = mrtd(b, f.sections, false)
	code, cfv := f.data(SectionBFV), f.data(SectionCFV)
	if code == nil || cfv == nil {
		return nil, errors.New("firmware: not one volume of code and one of variables")
	}
	f.cfv = cfv
	dxe, err := dxeVolume(code)
	if err != nil {
		return nil, err
	}
	if err := known(code, dxe); err != nil {
		return nil, err
	}
	f.smbios = dxe.HasDriver("SmbiosMeasurementDxe")
	vs, err := variables(cfv)
	if err != nil {
		return nil, err
	}
	f.secure, f.secureOn = secureBoot(vs)
	f.boot, err = bootVariables(dxe)
	return f, err
}

// data gives the bytes of the one section of a type; nil if there is not
// exactly one.
func (f *Firmware) data(t SectionType) []byte {
	one := func(s Section) bool { return s.Type == t }
	i := slices.IndexFunc(f.sections, one)
	if i < 0 || slices.ContainsFunc(f.sections[i+1:], one) {
		return nil
	}
	s := f.sections[i]
	return f.image[s.DataOffset : int64(s.DataOffset)+int64(s.RawSize)]
}

// known demands the marks of each behaviour that boot.go relies on: drivers that
// measure into RTMRs and no others, fw_cfg files that are measured before use
// (which came after the change that separates RTMR 1 from RTMR 0), the kernel
// as the unchanged file, and the place of the initrd's name in the command line.
func known(code []byte, dxe *uefi.Volume) error {
	switch {
	case !dxe.HasDriver("TdTcg2Dxe"), dxe.HasDriver("Tcg2Dxe"):
		return fmt.Errorf("firmware: its drivers do not measure into run-time registers alone: %w", ErrUnknownFirmware)
	case !bytes.Contains(code, []byte("QEMU FW CFG\x00")):
		return fmt.Errorf("firmware: does not measure fw_cfg, so older than 2025.05: %w", ErrUnknownFirmware)
	case !bytes.Contains(dxe.Bytes, []byte("\x00etc/boot/\x00")):
		return fmt.Errorf("firmware: does not read etc/boot/kernel: %w", ErrUnknownFirmware)
	case !bytes.Contains(dxe.Bytes, []byte("\x00initrd=initrd \x00")):
		return fmt.Errorf("firmware: does not put the initrd first in the command line: %w", ErrUnknownFirmware)
	}
	return nil
}

// bootVariables are BootOrder and the one entry there is when a kernel is
// handed over: the boot menu. Boot entries that firmware adds for its setup or
// for devices are not known from its bytes; see Platform.Boot.
func bootVariables(dxe *uefi.Volume) ([]Variable, error) {
	b, err := dxe.LoadOption(bootMenu)
	if errors.Is(err, uefi.ErrNoFile) {
		return nil, fmt.Errorf("firmware: no boot menu: %w", ErrUnknownFirmware)
	}
	if err != nil {
		return nil, err
	}
	return []Variable{{uefi.GlobalVariable, "BootOrder", []byte{0, 0}}, {uefi.GlobalVariable, "Boot0000", b}}, nil
}

// bootMenu is EDK2's BootManagerMenuApp.
var bootMenu = uefi.GUID{0xdc, 0x5b, 0xc2, 0xee, 0xf2, 0x67, 0x95, 0x4d, 0xb1, 0xd5, 0xf8, 0x1b, 0x20, 0x39, 0xd1, 0x1d}

// dxeVolume gives the first volume in the packed section of the code: the one
// whose drivers run in a TD.
func dxeVolume(code []byte) (*uefi.Volume, error) {
	main, err := uefi.ParseVolume(code)
	if err != nil {
		return nil, err
	}
	for v, err := range main.Packed() {
		return v, err
	}
	return nil, errors.New("firmware: no packed volume")
}

// MRTD is the launch digest.
func (f *Firmware) MRTD() Digest { return f.mrtd }

// Sections lists what is added to the TD.
func (f *Firmware) Sections() []Section { return slices.Clone(f.sections) }

// CFV is the volume of variables, which is measured as it is.
func (f *Firmware) CFV() []byte { return f.cfv }

// SecureBoot gives the variables of secure boot as measured, in their order, and
// whether it is on.
func (f *Firmware) SecureBoot() ([]Variable, bool) { return f.secure, f.secureOn }

// Boot gives the boot variables that the firmware's own bytes imply.
func (f *Firmware) Boot() []Variable { return f.boot }

// MeasuresSMBIOS reports whether SMBIOS tables go into RTMR 0.
func (f *Firmware) MeasuresSMBIOS() bool { return f.smbios }

// WithoutVariables gives the image with an empty variable store: secure boot is
// off. The store is not in MRTD, so this is the same code with another RTMR 0.
func WithoutVariables(image []byte) ([]byte, error) {
	ss, err := sections(image)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(ss, func(s Section) bool { return s.Type == SectionCFV })
	if i < 0 {
		return nil, errors.New("firmware: no volume of variables")
	}
	out := bytes.Clone(image)
	cfv := out[ss[i].DataOffset : int64(ss[i].DataOffset)+int64(ss[i].RawSize)]
	begin, end, err := uefi.VariableStore(cfv)
	if err != nil {
		return nil, err
	}
	for j := begin; j < end; j++ {
		cfv[j] = 0xff
	}
	return out, nil
}
