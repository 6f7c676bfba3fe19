// Package measure computes the launch digest that SEV-SNP, SEV-ES and SEV
// hardware gives for a launch: firmware, kernel hashes, vCPUs (SNP firmware ABI,
// SNP_LAUNCH_UPDATE and PAGE_INFO; SEV API, LAUNCH_MEASURE). It also makes ID
// blocks. Nothing is booted.
//
// Invariants: a firmware that would not measure the kernel is refused when there
// is one; what is not known is an error, never a guess.
//
// Trust zone: owner (reference values); linked by no guest.
package measure

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// Input is everything that goes into a launch digest.
type Input struct {
	TEE      launch.TEE // launch.SNP, launch.SEVES or launch.SEV
	Firmware []byte     // OVMF image
	Kernel   *Hashes    // nil: no kernel is handed to the firmware
	VCPUs    int
	// Signature is the CPUID signature of the vCPU model (firmware.Signature).
	Signature uint32
	Features  uint64       // SEV_FEATURES; none for SEV-ES and SEV
	VMM       firmware.VMM // "": QEMU
}

// MaxVCPUs bounds the number of save areas.
const MaxVCPUs = 512

// Hashes are what the kernel-hash table holds.
type Hashes struct{ Kernel, Initrd, Cmdline [32]byte }

// HashKernel makes Hashes. Without an initrd its hash is that of nothing; the
// command line is hashed with its terminating zero.
func HashKernel(kernel, initrd []byte, cmdline string) *Hashes {
	return &Hashes{sha256.Sum256(kernel), sha256.Sum256(initrd), HashCmdline(cmdline)}
}

// HashCmdline gives the hash of a command line.
func HashCmdline(s string) [32]byte { return sha256.Sum256(append([]byte(s), 0)) }

// Launch gives the launch digest: 48 bytes for SNP, 32 else.
func Launch(in Input) ([]byte, error) {
	d, err := digest(in)
	if err != nil {
		return nil, fmt.Errorf("computing launch digest: %w", err)
	}
	return d, nil
}

func digest(in Input) ([]byte, error) {
	fw, err := firmware.Parse(in.Firmware)
	if err != nil {
		return nil, err
	}
	if in.VMM, err = firmware.ParseVMM(string(in.VMM)); err != nil {
		return nil, err
	}
	if in.Kernel != nil && (fw.HashTable == 0 || int(fw.HashTableSize) < tableSize || fw.HashTable%firmware.PageSize+tableSize > firmware.PageSize) {
		return nil, errors.New("the firmware has no room for a kernel-hash table: the kernel would not be measured")
	}
	if in.Kernel != nil && in.VMM != firmware.QEMU {
		return nil, fmt.Errorf("VMM %s hands no kernel to the firmware", in.VMM)
	}
	if in.TEE != launch.SEV && (in.VCPUs < 1 || in.VCPUs > MaxVCPUs) {
		return nil, fmt.Errorf("%d vCPUs, not 1 to %d", in.VCPUs, MaxVCPUs)
	}
	switch in.TEE {
	case launch.SNP:
		if in.Features&launch.SNPActive == 0 {
			return nil, fmt.Errorf("SEV features %#x without the bit of SNP", in.Features)
		}
		return snpDigest(fw, in)
	case launch.SEVES, launch.SEV:
		if in.Features != 0 {
			return nil, fmt.Errorf("SEV features %#x without SNP", in.Features)
		}
		return sevDigest(fw, in)
	}
	return nil, fmt.Errorf("%q is none of snp, sev-es, sev", in.TEE)
}

// vmsas gives the save areas: the first vCPU's and, if there are more, the others'.
func vmsas(fw *firmware.Image, in Input) (boot, others []byte, err error) {
	if in.VCPUs > 1 && fw.ResetEIP == 0 {
		return nil, nil, errors.New("the firmware does not say where further vCPUs start")
	}
	return firmware.VMSA(in.VMM, firmware.BootEIP, in.Signature, in.Features), firmware.VMSA(in.VMM, fw.ResetEIP, in.Signature, in.Features), nil
}

func sevDigest(fw *firmware.Image, in Input) ([]byte, error) {
	h := sha256.New()
	h.Write(fw.Data)
	if in.Kernel != nil {
		h.Write(in.Kernel.table())
	}
	if in.TEE == launch.SEVES {
		boot, others, err := vmsas(fw, in)
		if err != nil {
			return nil, err
		}
		h.Write(boot)
		for range in.VCPUs - 1 {
			h.Write(others)
		}
	}
	return h.Sum(nil), nil
}

// Types of pages in PAGE_INFO.
const (
	pageNormal  = 1
	pageVMSA    = 2
	pageZero    = 3
	pageUnread  = 4 // "unmeasured": its address is, its contents are not
	pageSecrets = 5
	pageCPUID   = 6
)

// vmsaGPA is the address that the firmware notes for every save area.
const vmsaGPA = 0xFFFFFFFFF000

// gctx is the running digest of a launch.
type gctx struct{ digest [48]byte }

// update appends one page: contents is the page's digest, zero where the contents are not measured.
func (g *gctx) update(kind byte, gpa uint64, contents [48]byte) {
	var info [0x70]byte
	copy(info[:], g.digest[:])
	copy(info[48:], contents[:])
	binary.LittleEndian.PutUint16(info[96:], uint16(len(info)))
	info[98] = kind
	binary.LittleEndian.PutUint64(info[104:], gpa)
	g.digest = sha512.Sum384(info[:])
}

func (g *gctx) pages(kind byte, gpa uint64, data []byte) {
	for off := 0; off < len(data); off += firmware.PageSize {
		g.update(kind, gpa+uint64(off), sha512.Sum384(data[off:off+firmware.PageSize]))
	}
}

func (g *gctx) unread(kind byte, gpa, size uint64) {
	for off := uint64(0); off < size; off += firmware.PageSize {
		g.update(kind, gpa+off, [48]byte{})
	}
}

func snpDigest(fw *firmware.Image, in Input) ([]byte, error) {
	if len(fw.Sections) == 0 {
		return nil, errors.New("the firmware has no SEV metadata: it cannot start under SNP")
	}
	var g gctx
	g.pages(pageNormal, fw.GPA, fw.Data)
	hashed := false
	for _, s := range fw.Sections {
		switch s.Kind {
		case firmware.SectionMemory:
			kind := byte(pageZero)
			if in.VMM == firmware.GCE {
				kind = pageUnread
			}
			g.unread(kind, s.GPA, s.Size)
		case firmware.SectionCAA:
			g.unread(pageZero, s.GPA, s.Size)
		case firmware.SectionSecrets:
			g.unread(pageSecrets, s.GPA, s.Size)
		case firmware.SectionCPUID:
			if in.VMM != firmware.EC2 { // which puts them last
				g.unread(pageCPUID, s.GPA, s.Size)
			}
		case firmware.SectionHashes:
			if in.Kernel == nil {
				g.unread(pageZero, s.GPA, s.Size)
				continue
			}
			if s.Size != firmware.PageSize || fw.HashTable < s.GPA || fw.HashTable >= s.GPA+s.Size || hashed {
				return nil, fmt.Errorf("the firmware's kernel-hash table at %#x is not in its page at %#x", fw.HashTable, s.GPA)
			}
			g.pages(pageNormal, s.GPA, in.Kernel.page(int(fw.HashTable-s.GPA)))
			hashed = true
		default:
			return nil, fmt.Errorf("unknown kind of section %#x in the firmware's SEV metadata", s.Kind)
		}
	}
	if in.Kernel != nil && !hashed {
		return nil, errors.New("the firmware has no page for kernel hashes: the kernel would not be measured")
	}
	if in.VMM == firmware.EC2 {
		for _, s := range fw.Sections {
			if s.Kind == firmware.SectionCPUID {
				g.unread(pageCPUID, s.GPA, s.Size)
			}
		}
	}
	boot, others, err := vmsas(fw, in)
	if err != nil {
		return nil, err
	}
	g.update(pageVMSA, vmsaGPA, sha512.Sum384(boot))
	rest := sha512.Sum384(others)
	for range in.VCPUs - 1 {
		g.update(pageVMSA, vmsaGPA, rest)
	}
	return g.digest[:], nil
}
