package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/internal/uefi"
)

// Firmware is an OVMF code volume with an empty variable store, unpacked as far
// as its measurement needs. It is not safe for concurrent use.
type Firmware struct {
	profile profile
	pei     []byte                            // PEI volume as built; in memory its platform HOB is filled in
	dxe     refvalue.Digest                   // DXE volume
	peiSums map[[hobSize]byte]refvalue.Digest // the volume is large, the sizes of VMs many
	bootApp []byte                            // load option of Boot0000
}

// ErrUnknownFirmware says that nobody has yet recorded how a firmware measures.
var ErrUnknownFirmware = errors.New("unknown firmware")

// OpenFirmware unpacks code and checks that vars is an empty variable store.
// A firmware that is not in the table of profiles is ErrUnknownFirmware.
func OpenFirmware(code, vars []byte) (*Firmware, error) {
	sum := sha256.Sum256(code)
	p, ok := profiles[hex.EncodeToString(sum[:])]
	if !ok {
		return nil, fmt.Errorf("firmware with SHA-256 %x: %w: its constants must be learned first "+
			"(COFFER_E2E=1 COFFER_LEARN=<folder of the package> go test -v -run Learn ./test/measured)", sum, ErrUnknownFirmware)
	}
	if err := checkEmptyVars(vars); err != nil {
		return nil, fmt.Errorf("firmware variables: %w", err)
	}
	pei, dxe, err := unpackFirmware(code)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	if p.platformHOB+hobSize > len(pei.Bytes) {
		return nil, errors.New("firmware: PEI volume is smaller than its profile says")
	}
	boot, err := dxe.LoadOption(uiApp)
	if err != nil {
		return nil, fmt.Errorf("firmware: UiApp: %w", err)
	}
	return &Firmware{profile: p, pei: pei.Bytes, dxe: sha256.Sum256(dxe.Bytes), peiSums: map[[hobSize]byte]refvalue.Digest{}, bootApp: boot}, nil
}

// unpackFirmware gives the PEI and the DXE volume, which lie packed in one
// section of the code volume.
func unpackFirmware(code []byte) (pei, dxe *uefi.Volume, err error) {
	main, err := uefi.ParseVolume(code)
	if err != nil {
		return nil, nil, err
	}
	var inner []*uefi.Volume
	for v, err := range main.Packed() {
		if err != nil {
			return nil, nil, err
		}
		inner = append(inner, v)
	}
	if len(inner) != 2 {
		return nil, nil, fmt.Errorf("%d packed volumes, want the PEI and the DXE volume", len(inner))
	}
	return inner[0], inner[1], nil
}

// checkEmptyVars makes sure that no variable (a key, a boot entry) is set:
// the computed events are those of an empty store.
func checkEmptyVars(vars []byte) error {
	begin, end, err := uefi.VariableStore(vars)
	if err != nil {
		return err
	}
	for i, c := range vars[begin:end] {
		if c != 0xff {
			return fmt.Errorf("the store is not empty (byte %d)", i)
		}
	}
	return nil
}

// uiApp is OVMF's setup menu: its load option is the only boot entry there is when
// a kernel is handed over directly.
var uiApp = uefi.GUID{0x21, 0xaa, 0x2c, 0x46, 0x14, 0x76, 0x03, 0x45, 0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31}

// peiDigest is the digest of the PEI volume as it lies in memory when it is
// measured, with the platform's facts written into it.
func (f *Firmware) peiDigest(memoryMiB, vcpus int) (refvalue.Digest, error) {
	h, err := platformHOB(memoryMiB, vcpus)
	if err != nil {
		return refvalue.Digest{}, err
	}
	d, ok := f.peiSums[[hobSize]byte(h)]
	if !ok {
		sum := sha256.New()
		sum.Write(f.pei[:f.profile.platformHOB])
		sum.Write(h)
		sum.Write(f.pei[f.profile.platformHOB+hobSize:])
		d = refvalue.Digest(sum.Sum(nil))
		f.peiSums[[hobSize]byte(h)] = d
	}
	return d, nil
}

// hobSize is the size of EFI_HOB_PLATFORM_INFO in edk2-stable202211
// (OvmfPkg/Include/Library/PlatformInitLib.h), which is packed.
const hobSize = 0x94

// platformHOB is that structure as PlatformPei fills it for QEMU's q35 with
// launch.MachineArgs. Fields not named are zero.
func platformHOB(memoryMiB, vcpus int) ([]byte, error) {
	if vcpus < 1 || vcpus > launch.MaxVCPUs {
		return nil, fmt.Errorf("%d vCPUs are not between 1 and %d", vcpus, launch.MaxVCPUs)
	}
	const gib = 1 << 30
	// The 64-bit window for devices is 32 GiB at the next multiple of that
	// above memory. It ends the address space (FirstNonAddress); then the
	// window itself moves to the last eighth of what 40 bits address.
	above := uint64(memoryMiB)<<20 - uint64(lowMemory(memoryMiB))
	window := (4*gib + above + 32*gib - 1) &^ (32*gib - 1)
	b := make([]byte, hobSize)
	le := binary.LittleEndian
	le.PutUint16(b[0x18:], 0x29c0)        // HostBridgeDevId: q35
	le.PutUint64(b[0x2c:], window+32*gib) // FirstNonAddress
	b[0x34] = launch.PhysBits             // PhysMemAddressWidth
	le.PutUint32(b[0x35:], 0x80000000)    // Uc32Base
	const space = uint64(1) << launch.PhysBits
	le.PutUint64(b[0x46:], space-space/8) // PcdPciMmio64Base
	le.PutUint64(b[0x4e:], space/8)       // PcdPciMmio64Size
	le.PutUint32(b[0x56:], 0xc0000000)    // PcdPciMmio32Base
	le.PutUint32(b[0x5a:], 0x3c000000)    // PcdPciMmio32Size
	le.PutUint64(b[0x5e:], 0x6000)        // PcdPciIoBase
	le.PutUint64(b[0x66:], 0xa000)        // PcdPciIoSize
	le.PutUint32(b[0x76:], uint32(vcpus)) // PcdCpuBootLogicalProcessorNumber
	le.PutUint32(b[0x7a:], uint32(vcpus)) // PcdCpuMaxLogicalProcessorNumber
	le.PutUint32(b[0x7e:], 64)            // DefaultMaxCpuNumber
	b[0x8a], b[0x8b] = 1, 1               // flags of the module that follow the structure
	return b, nil
}
