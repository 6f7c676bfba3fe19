package sim

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// Inputs is what the hypervisor hands to the hardware at launch. Kernel, initrd,
// command line and vCPUs are the running QEMU's; firmware, signature and features
// are the LaunchSpec's.
type Inputs struct {
	Firmware []byte // OVMF image
	// Kernel and Initrd are SHA-256 of the files; no initrd: of nothing.
	Kernel, Initrd [32]byte
	Cmdline        string
	VCPUs          int
	Signature      uint32 // CPUID signature of the vCPU model
	Features       uint64
}

// NoInitrd is the hash of an initrd that is not there.
func NoInitrd() [32]byte { return sha256.Sum256(nil) }

// processor is the launch part of the secure processor: LAUNCH_DIGEST.
type processor struct{ ld [sha512.Size384]byte }

// The page types of SNP_LAUNCH_UPDATE that QEMU uses.
const (
	typeNormal  = 0x1
	typeVMSA    = 0x2
	typeZero    = 0x3
	typeSecrets = 0x5
	typeCPUID   = 0x6
)

// launchUpdate is SNP_LAUNCH_UPDATE of one page: LD := SHA-384(PAGE_INFO).
func (p *processor) launchUpdate(pageType uint8, gpa uint64, page []byte) error {
	if len(page) != firmware.PageSize {
		return fmt.Errorf("launch update of %d bytes", len(page))
	}
	info := struct {
		Digest, Contents                             [sha512.Size384]byte
		Length                                       uint16
		PageType, IMI, VMPL3, VMPL2, VMPL1, Reserved uint8
		GPA                                          uint64
	}{Digest: p.ld, Length: 0x70, PageType: pageType, GPA: gpa}
	switch pageType {
	case typeNormal, typeVMSA:
		info.Contents = sha512.Sum384(page)
	}
	h := sha512.New384()
	if err := binary.Write(h, binary.LittleEndian, info); err != nil {
		return err
	}
	h.Sum(p.ld[:0])
	return nil
}

// Launch plays QEMU with kernel-hashes=on: it lays out guest memory and updates
// the launch with it page by page, and gives the digest.
func Launch(in Inputs) ([48]byte, error) {
	d, err := start(in)
	if err != nil {
		return d, fmt.Errorf("simulated launch: %w", err)
	}
	return d, nil
}

func start(in Inputs) ([48]byte, error) {
	fw, err := firmware.Parse(in.Firmware)
	if err != nil {
		return [48]byte{}, err
	}
	switch {
	case fw.Sections == nil:
		return [48]byte{}, errors.New("the firmware has no SEV metadata")
	case fw.HashTable == 0:
		return [48]byte{}, errors.New("the firmware takes no kernel hashes")
	case in.VCPUs < 1 || in.VCPUs > 1 && fw.ResetEIP == 0:
		return [48]byte{}, fmt.Errorf("%d vCPUs cannot be started", in.VCPUs)
	}
	var p processor
	update := func(kind uint8, gpa uint64, memory []byte) error {
		for len(memory) > 0 {
			n := min(len(memory), firmware.PageSize)
			if err := p.launchUpdate(kind, gpa, memory[:n]); err != nil {
				return err
			}
			gpa, memory = gpa+firmware.PageSize, memory[n:]
		}
		return nil
	}
	if err := update(typeNormal, fw.GPA, fw.Data); err != nil {
		return p.ld, err
	}
	table := hashTable(in)
	placed := false
	for _, s := range fw.Sections {
		memory := make([]byte, s.Size)
		kind := uint8(typeZero)
		switch s.Kind {
		case firmware.SectionSecrets:
			kind = typeSecrets
		case firmware.SectionCPUID:
			kind = typeCPUID
		case firmware.SectionHashes:
			if fw.HashTable < s.GPA || fw.HashTable+uint64(len(table)) > s.GPA+s.Size || uint64(fw.HashTableSize) < uint64(len(table)) {
				return p.ld, errors.New("the kernel-hash table does not fit its page")
			}
			copy(memory[fw.HashTable-s.GPA:], table)
			kind, placed = typeNormal, true
		case firmware.SectionMemory, firmware.SectionCAA:
		default:
			return p.ld, fmt.Errorf("section of unknown kind %#x", s.Kind)
		}
		if err := update(kind, s.GPA, memory); err != nil {
			return p.ld, err
		}
	}
	if !placed {
		return p.ld, errors.New("the firmware has no page for kernel hashes")
	}
	eip := uint32(firmware.BootEIP)
	for range in.VCPUs {
		if err := p.launchUpdate(typeVMSA, 1<<48-firmware.PageSize, firmware.VMSA(firmware.QEMU, eip, in.Signature, in.Features)); err != nil {
			return p.ld, err
		}
		eip = fw.ResetEIP
	}
	return p.ld, nil
}

// uuid is a GUID as C structures hold it.
type uuid struct {
	A    uint32
	B, C uint16
	D    [8]byte
}

// hashTable builds the table that OVMF compares the files with, which it gets
// from QEMU over fw_cfg.
func hashTable(in Inputs) []byte {
	type entry struct {
		ID     uuid
		Length uint16
		Hash   [32]byte
	}
	t := struct {
		ID                      uuid
		Length                  uint16
		Cmdline, Initrd, Kernel entry
		Padding                 [8]byte
	}{
		ID:      uuid{0x9438d606, 0x4f22, 0x4cc9, [8]byte{0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21}},
		Length:  168,
		Cmdline: entry{uuid{0x97d02dd8, 0xbd20, 0x4c94, [8]byte{0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a}}, 50, sha256.Sum256([]byte(in.Cmdline + "\x00"))},
		Initrd:  entry{uuid{0x44baf731, 0x3a2f, 0x4bd7, [8]byte{0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d}}, 50, in.Initrd},
		Kernel:  entry{uuid{0x4de79437, 0xabd2, 0x427f, [8]byte{0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b}}, 50, in.Kernel},
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, t); err != nil {
		panic(err) // a structure of fixed size into memory
	}
	return b.Bytes()
}
