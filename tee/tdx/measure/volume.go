package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"

	"github.com/ulikunitz/xz/lzma"
)

// GUIDs of the UEFI Platform Initialization specification, volume 3, and EDK2.
var (
	guidLZMA     = guid{0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf}
	guidBootMenu = guid{0xdc, 0x5b, 0xc2, 0xee, 0xf2, 0x67, 0x95, 0x4d, 0xb1, 0xd5, 0xf8, 0x1b, 0x20, 0x39, 0xd1, 0x1d}
)

// Section types of firmware files.
const (
	sectionGUIDDefined = 0x02
	sectionUI          = 0x15
	sectionVolume      = 0x17
)

const (
	maxUnpacked = 64 << 20
	maxFiles    = 4096
)

// volume is an EFI_FIRMWARE_VOLUME.
type volume struct {
	b     []byte
	name  guid // FvName of the extended header
	files []ffsFile
}

type ffsFile struct {
	name guid
	body []byte // sections
}

type ffsSection struct {
	typ        byte
	head, body []byte
}

// parseVolume reads the volume at the start of b. Padding and raw files, which
// hold no sections, are left out.
func parseVolume(b []byte) (*volume, error) {
	le := binary.LittleEndian
	if len(b) < 56 || string(b[40:44]) != "_FVH" {
		return nil, errors.New("firmware volume: no header")
	}
	size, start := le.Uint64(b[32:]), int(le.Uint16(b[48:]))
	if size > uint64(len(b)) || start < 56 || size < uint64(start) {
		return nil, fmt.Errorf("firmware volume: length %d does not fit into %d bytes", size, len(b))
	}
	v := &volume{b: b[:size]}
	if ext := int(le.Uint16(b[52:])); ext != 0 {
		if ext+20 > len(v.b) {
			return nil, errors.New("firmware volume: extended header is cut")
		}
		v.name = guid(v.b[ext : ext+16])
		n := int64(le.Uint32(v.b[ext+16:]))
		if int64(ext)+n > int64(len(v.b)) {
			return nil, errors.New("firmware volume: extended header is cut")
		}
		start = ext + int(n)
	}
	for off := align(start, 8); off+24 <= len(v.b); {
		h := v.b[off:]
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
		if len(v.files) == maxFiles {
			return nil, fmt.Errorf("firmware volume: more than %d files", maxFiles)
		}
		if typ := h[18]; typ != 0x01 && typ != 0xf0 {
			v.files = append(v.files, ffsFile{name: guid(h[:16]), body: h[hs:n]})
		}
		off = align(off+int(n), 8)
	}
	return v, nil
}

// parseSections reads the sections of a file or of an unpacked section.
func parseSections(b []byte) ([]ffsSection, error) {
	var out []ffsSection
	for off := 0; off+4 <= len(b); {
		h := b[off:]
		n, hs := int64(h[0])|int64(h[1])<<8|int64(h[2])<<16, 4
		if n == 0xffffff {
			if len(h) < 8 {
				return nil, errors.New("firmware section: header is cut")
			}
			n, hs = int64(binary.LittleEndian.Uint32(h[4:])), 8
		}
		if n < int64(hs) || n > int64(len(h)) || len(out) == maxFiles {
			return nil, fmt.Errorf("firmware section: %d bytes at %#x do not fit", n, off)
		}
		out = append(out, ffsSection{typ: h[3], body: h[hs:n], head: h[:n]})
		off = align(off+int(n), 4)
	}
	return out, nil
}

// unpackLZMA gives what a packed section holds.
func unpackLZMA(s ffsSection) ([]byte, error) {
	if len(s.body) < 20 || guid(s.body[:16]) != guidLZMA {
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

// dxeVolume gives the first volume in the packed section of the code: the one
// whose drivers run in a TD.
func dxeVolume(code []byte) (*volume, error) {
	main, err := parseVolume(code)
	if err != nil {
		return nil, err
	}
	for _, f := range main.files {
		ss, err := parseSections(f.body)
		if err != nil {
			return nil, err
		}
		for _, s := range ss {
			if s.typ != sectionGUIDDefined {
				continue
			}
			b, err := unpackLZMA(s)
			if err != nil {
				return nil, err
			}
			us, err := parseSections(b)
			if err != nil {
				return nil, err
			}
			for _, u := range us {
				if u.typ == sectionVolume {
					return parseVolume(u.body)
				}
			}
		}
	}
	return nil, errors.New("firmware: no packed volume")
}

func (v *volume) file(name guid) (ffsFile, bool) {
	for _, f := range v.files {
		if f.name == name {
			return f, true
		}
	}
	return ffsFile{}, false
}

// hasDriver reports whether a file has that human-readable name.
func (v *volume) hasDriver(name string) bool {
	for _, f := range v.files {
		if s, err := f.uiName(); err == nil && s == name {
			return true
		}
	}
	return false
}

// uiName gives the file's human-readable name.
func (f ffsFile) uiName() (string, error) {
	ss, err := parseSections(f.body)
	if err != nil {
		return "", err
	}
	for _, s := range ss {
		if s.typ != sectionUI || len(s.body)%2 != 0 {
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

func align(n, to int) int { return (n + to - 1) &^ (to - 1) }
