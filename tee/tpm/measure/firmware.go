package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
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
	if p.platformHOB+hobSize > len(pei.b) {
		return nil, errors.New("firmware: PEI volume is smaller than its profile says")
	}
	boot, err := uiAppOption(dxe)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	return &Firmware{profile: p, pei: pei.b, dxe: sha256.Sum256(dxe.b), peiSums: map[[hobSize]byte]refvalue.Digest{}, bootApp: boot}, nil
}

// unpackFirmware gives the PEI and the DXE volume, which lie packed in one
// section of the code volume.
func unpackFirmware(code []byte) (pei, dxe *volume, err error) {
	main, err := parseVolume(code)
	if err != nil {
		return nil, nil, err
	}
	var inner []*volume
	for _, f := range main.files {
		if f.raw {
			continue
		}
		ss, err := parseSections(f.body)
		if err != nil {
			return nil, nil, err
		}
		for _, s := range ss {
			if s.typ != sectionGUIDDefined {
				continue
			}
			b, err := unpackLZMA(s)
			if err != nil {
				return nil, nil, err
			}
			us, err := parseSections(b)
			if err != nil {
				return nil, nil, err
			}
			for _, u := range us {
				if u.typ == sectionVolume {
					v, err := parseVolume(u.body)
					if err != nil {
						return nil, nil, err
					}
					inner = append(inner, v)
				}
			}
		}
	}
	if len(inner) != 2 {
		return nil, nil, fmt.Errorf("%d packed volumes, want the PEI and the DXE volume", len(inner))
	}
	return inner[0], inner[1], nil
}

// checkEmptyVars makes sure that no variable (a key, a boot entry) is set:
// the computed events are those of an empty store.
func checkEmptyVars(vars []byte) error {
	le := binary.LittleEndian
	if len(vars) < 72 || string(vars[40:44]) != "_FVH" {
		return errors.New("no firmware volume")
	}
	head := int(le.Uint16(vars[48:]))
	if head+28 > len(vars) || guid(vars[head:head+16]) != guidAuthVarList {
		return errors.New("no store of authenticated variables")
	}
	size := int64(le.Uint32(vars[head+16:]))
	if size < 28 || int64(head)+size > int64(len(vars)) {
		return errors.New("variable store does not fit into its volume")
	}
	for i, c := range vars[head+28 : int64(head)+size] {
		if c != 0xff {
			return fmt.Errorf("the store is not empty (byte %d)", i)
		}
	}
	return nil
}

// uiAppOption is the EFI_LOAD_OPTION that OVMF makes for its setup menu, the
// only boot entry there is when a kernel is handed over directly.
func uiAppOption(dxe *volume) ([]byte, error) {
	f, ok := dxe.file(guidUIApp)
	if !ok {
		return nil, errors.New("no UiApp in the DXE volume")
	}
	name, err := f.uiName()
	if err != nil {
		return nil, fmt.Errorf("UiApp: %w", err)
	}
	// Device path: the volume (type 4, subtype 7), the file in it (4, 6), end.
	path := append([]byte{4, 7, 20, 0}, dxe.name[:]...)
	path = append(append(path, 4, 6, 20, 0), guidUIApp[:]...)
	path = append(path, 0x7f, 0xff, 4, 0)
	const attributes = 0x109 // ACTIVE, HIDDEN, CATEGORY_APP
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(b, utf16z(name)...)
	return append(b, path...), nil
}

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
