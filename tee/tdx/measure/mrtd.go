package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"hash"
)

const chunk = 256 // bytes that one TDH.MR.EXTEND measures

// mrtd computes the launch digest as the TDX module does (TDX module ABI,
// TDH.MEM.PAGE.ADD and TDH.MR.EXTEND): SHA-384 over one 128-byte record for each
// page that is added and, where the section says so, one record and the bytes
// for each 256 bytes of it. KVM adds and extends page by page; older out-of-tree
// KVM added all pages of a section first.
func mrtd(fw []byte, ss []Section, twoPass bool) Digest {
	h := sha512.New384()
	for _, s := range ss {
		data := fw[s.DataOffset : int64(s.DataOffset)+int64(s.RawSize)]
		pages := s.MemSize / pageSize
		extend := s.Attributes&attrExtend != 0
		for p := range pages {
			pageAdd(h, s.GPA+p*pageSize)
			if extend && !twoPass {
				mrExtend(h, s.GPA+p*pageSize, page(data, p))
			}
		}
		for p := range pages {
			if extend && twoPass {
				mrExtend(h, s.GPA+p*pageSize, page(data, p))
			}
		}
	}
	return Digest(h.Sum(nil))
}

// page gives one page of a section, with zeros behind its data.
func page(data []byte, p uint64) []byte {
	start := p * pageSize
	if start >= uint64(len(data)) {
		return make([]byte, pageSize)
	}
	b := data[start:min(start+pageSize, uint64(len(data)))]
	if len(b) < pageSize {
		b = append(append(make([]byte, 0, pageSize), b...), make([]byte, pageSize-len(b))...)
	}
	return b
}

func pageAdd(h hash.Hash, gpa uint64) {
	var r [128]byte
	copy(r[:], "MEM.PAGE.ADD")
	binary.LittleEndian.PutUint64(r[16:], gpa)
	h.Write(r[:])
}

func mrExtend(h hash.Hash, gpa uint64, b []byte) {
	for off := 0; off < pageSize; off += chunk {
		var r [128]byte
		copy(r[:], "MR.EXTEND")
		binary.LittleEndian.PutUint64(r[16:], gpa+uint64(off))
		h.Write(r[:])
		h.Write(b[off : off+chunk])
	}
}
