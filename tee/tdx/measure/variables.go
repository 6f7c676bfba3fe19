package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// Vendors of variables, and the mark of a store of authenticated ones.
var (
	guidAuthStore = guid{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}
	guidGlobal    = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	guidSecurity  = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

const maxVariables = 1024

// Variable is an EFI variable.
type Variable struct {
	Vendor [16]byte // byte order on disk
	Name   string
	Value  []byte
}

// Data is the variable as firmware logs it (UEFI_VARIABLE_DATA): vendor, length
// of the name in characters, length of the value, both.
func (v *Variable) Data() []byte {
	name := utf16z(v.Name)
	b := append([]byte(nil), v.Vendor[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(name)/2-1))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v.Value)))
	b = append(b, name[:len(name)-2]...)
	return append(b, v.Value...)
}

// variables reads the live variables of a store (EDK2,
// AUTHENTICATED_VARIABLE_HEADER) at the start of the configuration volume.
func variables(cfv []byte) ([]Variable, error) {
	head, end, err := storeBounds(cfv)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var out []Variable
	for off := head; off+60 <= end; {
		h := cfv[off:end]
		if le.Uint16(h) != 0x55aa {
			break
		}
		name, data := int64(le.Uint32(h[36:])), int64(le.Uint32(h[40:]))
		total := 60 + name + data
		if name < 2 || name%2 != 0 || total > int64(len(h)) {
			return nil, fmt.Errorf("variable store: variable at %#x does not fit", off)
		}
		if len(out) == maxVariables {
			return nil, fmt.Errorf("variable store: more than %d variables", maxVariables)
		}
		if h[2] == 0x3f { // VAR_ADDED; others are deleted or half written
			out = append(out, Variable{guid(h[44:60]), utf16String(h[60 : 60+name-2]), h[60+name : total]})
		}
		off = align(off+int(total), 4)
	}
	return out, nil
}

// storeBounds gives where the variables of a store begin and where they must end.
func storeBounds(cfv []byte) (begin, end int, err error) {
	le := binary.LittleEndian
	if len(cfv) < 72 || string(cfv[40:44]) != "_FVH" {
		return 0, 0, errors.New("variable store: no firmware volume")
	}
	head := int(le.Uint16(cfv[48:]))
	if head+28 > len(cfv) || guid(cfv[head:head+16]) != guidAuthStore {
		return 0, 0, errors.New("variable store: not one of authenticated variables")
	}
	size := int64(le.Uint32(cfv[head+16:]))
	if size < 28 || int64(head)+size > int64(len(cfv)) {
		return 0, 0, errors.New("variable store: does not fit into its volume")
	}
	return head + 28, head + int(size), nil
}

// secureBoot gives the variables that firmware measures before anything is
// loaded, in its order, and whether secure boot is on: it is when a platform key
// is enrolled and nothing switches it off.
func secureBoot(vs []Variable) (measured []Variable, on bool) {
	find := func(vendor guid, name string) ([]byte, bool) {
		for i := range vs {
			if vs[i].Vendor == vendor && vs[i].Name == name {
				return vs[i].Value, true
			}
		}
		return nil, false
	}
	_, on = find(guidGlobal, "PK")
	state := byte(0)
	if on {
		state = 1
	}
	measured = append(measured, Variable{guidGlobal, "SecureBoot", []byte{state}})
	for _, v := range []Variable{{guidGlobal, "PK", nil}, {guidGlobal, "KEK", nil}, {guidSecurity, "db", nil}, {guidSecurity, "dbx", nil}} {
		v.Value, _ = find(v.Vendor, v.Name)
		measured = append(measured, v)
	}
	if v, ok := find(guidSecurity, "dbt"); ok {
		measured = append(measured, Variable{guidSecurity, "dbt", v})
	}
	return measured, on
}

// utf16z is s in UTF-16LE with its terminator.
func utf16z(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

func utf16String(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u = append(u, binary.LittleEndian.Uint16(b[i:]))
	}
	return string(utf16.Decode(u))
}
