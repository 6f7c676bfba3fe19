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

// guid is an EFI_GUID in its byte order on disk.
type guid [16]byte

// GUIDs of the UEFI Platform Initialization specification, volume 3, and EDK2.
var (
	guidLZMA        = guid{0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf}
	guidUIApp       = guid{0x21, 0xaa, 0x2c, 0x46, 0x14, 0x76, 0x03, 0x45, 0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31}
	guidAuthVarList = guid{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}
)

// Section types.
const (
	sectionGUIDDefined = 0x02
	sectionUI          = 0x15
	sectionVolume      = 0x17
)

const (
	maxUnpacked = 64 << 20 // bytes of unpacked firmware
	maxFiles    = 4096
	maxSects    = 4096
)

// volume is an EFI_FIRMWARE_VOLUME.
type volume struct {
	b     []byte // the whole volume
	name  guid   // FvName of the extended header; zero if there is none
	files []ffsFile
}

type ffsFile struct {
	name guid
	body []byte // sections, or raw bytes
	raw  bool   // pad and raw files hold no sections
}

type section struct {
	typ  byte
	body []byte // without the common header
	head []byte // whole section, for GUID-defined ones
}

// parseVolume reads the volume at the start of b.
func parseVolume(b []byte) (*volume, error) {
	le := binary.LittleEndian
	if len(b) < 56 || string(b[40:44]) != "_FVH" {
		return nil, errors.New("firmware volume: no header")
	}
	size, head := le.Uint64(b[32:]), int(le.Uint16(b[48:]))
	if size > uint64(len(b)) || size < uint64(head) || head < 56 {
		return nil, fmt.Errorf("firmware volume: length %d does not fit into %d bytes", size, len(b))
	}
	v := &volume{b: b[:size]}
	start := head
	if ext := int(le.Uint16(b[52:])); ext != 0 {
		if ext+20 > len(v.b) {
			return nil, errors.New("firmware volume: extended header is cut")
		}
		copy(v.name[:], v.b[ext:])
		// The files start behind it.
		if n := le.Uint32(v.b[ext+16:]); int64(ext)+int64(n) <= int64(len(v.b)) {
			start = ext + int(n)
		} else {
			return nil, errors.New("firmware volume: extended header is cut")
		}
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
		typ := h[18]
		v.files = append(v.files, ffsFile{name: guid(h[:16]), body: h[hs:n], raw: typ == 0x01 || typ == 0xf0})
		off = align(off+int(n), 8)
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
		if len(out) == maxSects {
			return nil, fmt.Errorf("firmware section: more than %d", maxSects)
		}
		out = append(out, section{typ: h[3], body: h[hs:n], head: h[:n]})
		off = align(off+int(n), 4)
	}
	return out, nil
}

// unpackLZMA gives what an LZMA GUID-defined section holds.
func unpackLZMA(s section) ([]byte, error) {
	if len(s.body) < 20 || guid(s.body[:16]) != guidLZMA {
		return nil, errors.New("firmware section: not packed with LZMA")
	}
	data := int(binary.LittleEndian.Uint16(s.body[16:]))
	if data < 24 || data > len(s.head) {
		return nil, errors.New("firmware section: data offset does not fit")
	}
	packed := s.head[data:]
	// The header names the sizes of dictionary and data: bound both.
	if len(packed) < 13 || binary.LittleEndian.Uint32(packed[1:]) > maxUnpacked || binary.LittleEndian.Uint64(packed[5:]) > maxUnpacked {
		return nil, fmt.Errorf("firmware section: unpacks to more than %d bytes", maxUnpacked)
	}
	r, err := lzma.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("firmware section: unpacking: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err != nil {
		return nil, fmt.Errorf("firmware section: unpacking: %w", err)
	}
	if len(b) > maxUnpacked {
		return nil, fmt.Errorf("firmware section: unpacks to more than %d bytes", maxUnpacked)
	}
	return b, nil
}

// uiName gives the file's human-readable name, from its UI section.
func (f ffsFile) uiName() (string, error) {
	ss, err := parseSections(f.body)
	if err != nil {
		return "", err
	}
	for _, s := range ss {
		if s.typ == sectionUI && len(s.body) >= 2 && len(s.body)%2 == 0 {
			u := make([]uint16, 0, len(s.body)/2)
			for i := 0; i+1 < len(s.body); i += 2 {
				if c := binary.LittleEndian.Uint16(s.body[i:]); c != 0 {
					u = append(u, c)
				}
			}
			return string(utf16.Decode(u)), nil
		}
	}
	return "", errors.New("firmware file: no name")
}

func (v *volume) file(name guid) (ffsFile, bool) {
	for _, f := range v.files {
		if f.name == name && !f.raw {
			return f, true
		}
	}
	return ffsFile{}, false
}

func align(n, to int) int { return (n + to - 1) &^ (to - 1) }
