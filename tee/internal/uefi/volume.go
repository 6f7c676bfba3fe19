package uefi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"unicode/utf16"

	"github.com/ulikunitz/xz/lzma"
)

// lzmaSection marks a section that is packed with LZMA.
var lzmaSection = GUID{0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf}

// Types of files and sections.
const (
	fileRaw = 0x01
	filePad = 0xf0

	sectionGUIDDefined = 0x02
	sectionUI          = 0x15
	sectionVolume      = 0x17
)

// Limits: bytes of unpacked firmware, files of a volume, sections of a file.
const (
	maxUnpacked = 64 << 20
	maxFiles    = 4096
	maxSections = 4096
)

// Volume is an EFI_FIRMWARE_VOLUME.
type Volume struct {
	Bytes []byte // the whole volume
	Name  GUID   // FvName of the extended header; zero if there is none
	files []file
}

// file is one that holds sections; padding and raw files are left out.
type file struct {
	name GUID
	body []byte
}

type section struct {
	typ        byte
	body, head []byte // without the common header; the whole section
}

// ParseVolume reads the volume at the start of b.
func ParseVolume(b []byte) (*Volume, error) {
	le := binary.LittleEndian
	if len(b) < 56 || string(b[40:44]) != "_FVH" {
		return nil, errors.New("firmware volume: no header")
	}
	size, start := le.Uint64(b[32:]), int(le.Uint16(b[48:]))
	if size > uint64(len(b)) || start < 56 || size < uint64(start) {
		return nil, fmt.Errorf("firmware volume: length %d does not fit into %d bytes", size, len(b))
	}
	v := &Volume{Bytes: b[:size]}
	if ext := int(le.Uint16(b[52:])); ext != 0 {
		if ext+20 > len(v.Bytes) {
			return nil, errors.New("firmware volume: extended header is cut")
		}
		v.Name = GUID(v.Bytes[ext : ext+16])
		n := int64(le.Uint32(v.Bytes[ext+16:]))
		if int64(ext)+n > int64(len(v.Bytes)) {
			return nil, errors.New("firmware volume: extended header is cut")
		}
		start = ext + int(n) // the files start behind it
	}
	count := 0
	for off := Align(start, 8); off+24 <= len(v.Bytes); {
		h := v.Bytes[off:]
		if bytes.Count(h[:24], []byte{0xff}) == 24 {
			break // free space
		}
		n, hs := int64(h[20])|int64(h[21])<<8|int64(h[22])<<16, 24
		if h[19]&1 != 0 { // FFS_ATTRIB_LARGE_FILE
			if len(h) < 32 {
				return nil, errors.New("firmware volume: file header is cut")
			}
			n, hs = int64(le.Uint64(h[24:])), 32
		}
		if n < int64(hs) || n > int64(len(h)) {
			return nil, fmt.Errorf("firmware volume: file at %#x of %d bytes does not fit", off, n)
		}
		if count++; count > maxFiles {
			return nil, fmt.Errorf("firmware volume: more than %d files", maxFiles)
		}
		if typ := h[18]; typ != fileRaw && typ != filePad {
			v.files = append(v.files, file{name: GUID(h[:16]), body: h[hs:n]})
		}
		off = Align(off+int(n), 8)
	}
	return v, nil
}

// parseSections reads the sections of a file or of an unpacked section.
func parseSections(b []byte) ([]section, error) {
	var out []section
	for off := 0; off+4 <= len(b); {
		h := b[off:]
		n, hs := int64(h[0])|int64(h[1])<<8|int64(h[2])<<16, 4
		if n == 0xffffff {
			if len(h) < 8 {
				return nil, errors.New("firmware section: header is cut")
			}
			n, hs = int64(binary.LittleEndian.Uint32(h[4:])), 8
		}
		if n < int64(hs) || n > int64(len(h)) {
			return nil, fmt.Errorf("firmware section: %d bytes at %#x do not fit", n, off)
		}
		if len(out) == maxSections {
			return nil, fmt.Errorf("firmware section: more than %d", maxSections)
		}
		out = append(out, section{typ: h[3], body: h[hs:n], head: h[:n]})
		off = Align(off+int(n), 4)
	}
	return out, nil
}

// unpackLZMA gives what a packed section holds.
func unpackLZMA(s section) ([]byte, error) {
	if len(s.body) < 20 || GUID(s.body[:16]) != lzmaSection {
		return nil, errors.New("firmware section: not packed with LZMA")
	}
	data := int(binary.LittleEndian.Uint16(s.body[16:]))
	if data < 24 || data > len(s.head) {
		return nil, errors.New("firmware section: data offset does not fit")
	}
	packed := s.head[data:]
	if len(packed) < 13 {
		return nil, errors.New("firmware section: packed data are cut")
	}
	// The header names the sizes of dictionary and data: bound both.
	size := binary.LittleEndian.Uint64(packed[5:])
	if binary.LittleEndian.Uint32(packed[1:]) > maxUnpacked || size > maxUnpacked {
		return nil, fmt.Errorf("firmware section: unpacks to more than %d bytes", maxUnpacked)
	}
	r, err := lzma.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("firmware section: unpacking: %w", err)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(r, int64(size)+1)); err != nil {
		return nil, fmt.Errorf("firmware section: unpacking: %w", err)
	}
	if uint64(b.Len()) != size {
		return nil, fmt.Errorf("firmware section: unpacks to %d bytes, says %d", b.Len(), size)
	}
	return b.Bytes(), nil
}

// Packed gives the volumes in the packed sections of a volume, in their order. It
// ends with the first error.
func (v *Volume) Packed() iter.Seq2[*Volume, error] {
	return func(yield func(*Volume, error) bool) {
		for _, f := range v.files {
			ss, err := parseSections(f.body)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, s := range ss {
				if s.typ == sectionGUIDDefined && !s.packed(yield) {
					return
				}
			}
		}
	}
}

// packed yields the volumes in one section and reports whether there may be more.
func (s section) packed(yield func(*Volume, error) bool) bool {
	b, err := unpackLZMA(s)
	if err != nil {
		yield(nil, err)
		return false
	}
	inner, err := parseSections(b)
	if err != nil {
		yield(nil, err)
		return false
	}
	for _, u := range inner {
		if u.typ != sectionVolume {
			continue
		}
		w, err := ParseVolume(u.body)
		if !yield(w, err) || err != nil {
			return false
		}
	}
	return true
}

// HasDriver reports whether a file has that human-readable name.
func (v *Volume) HasDriver(name string) bool {
	for _, f := range v.files {
		if s, err := f.uiName(); err == nil && s == name {
			return true
		}
	}
	return false
}

// ErrNoFile says that a volume has no file of a name.
var ErrNoFile = errors.New("firmware volume: no such file")

// LoadOption is the EFI_LOAD_OPTION that EDK2 makes for a menu of its own, a file
// of this volume.
func (v *Volume) LoadOption(name GUID) ([]byte, error) {
	i := slices.IndexFunc(v.files, func(f file) bool { return f.name == name })
	if i < 0 {
		return nil, ErrNoFile
	}
	title, err := v.files[i].uiName()
	if err != nil {
		return nil, err
	}
	// Device path: the volume (type 4, subtype 7), the file in it (4, 6), end.
	path := append([]byte{4, 7, 20, 0}, v.Name[:]...)
	path = append(append(path, 4, 6, 20, 0), name[:]...)
	path = append(path, 0x7f, 0xff, 4, 0)
	const attributes = 0x109 // ACTIVE, HIDDEN, CATEGORY_APP
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	return append(append(b, UTF16Z(title)...), path...), nil
}

// uiName gives the file's human-readable name, from its UI section.
func (f file) uiName() (string, error) {
	ss, err := parseSections(f.body)
	if err != nil {
		return "", err
	}
	for _, s := range ss {
		if s.typ != sectionUI || len(s.body) < 2 || len(s.body)%2 != 0 {
			continue
		}
		var u []uint16
		for i := 0; i+1 < len(s.body); i += 2 {
			if c := binary.LittleEndian.Uint16(s.body[i:]); c != 0 {
				u = append(u, c)
			}
		}
		return string(utf16.Decode(u)), nil
	}
	return "", errors.New("firmware file: no name")
}

// Align rounds up to a multiple of to, a power of two.
func Align(n, to int) int { return (n + to - 1) &^ (to - 1) }
