package measure

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/cofferproject/coffer/tee/internal/uefi"
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
func (v *Variable) Data() []byte { return uefi.VariableData(v.Vendor, v.Name, v.Value) }

// variables reads the live variables of a store (EDK2,
// AUTHENTICATED_VARIABLE_HEADER) at the start of the configuration volume.
func variables(cfv []byte) ([]Variable, error) {
	head, end, err := uefi.VariableStore(cfv)
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
			out = append(out, Variable{uefi.GUID(h[44:60]), utf16String(h[60 : 60+name-2]), h[60+name : total]})
		}
		off = uefi.Align(off+int(total), 4)
	}
	return out, nil
}

// secureBoot gives the variables that firmware measures before anything is
// loaded, in its order, and whether secure boot is on: it is when a platform key
// is enrolled and nothing switches it off.
func secureBoot(vs []Variable) (measured []Variable, on bool) {
	find := func(vendor uefi.GUID, name string) ([]byte, bool) {
		for i := range vs {
			if vs[i].Vendor == vendor && vs[i].Name == name {
				return vs[i].Value, true
			}
		}
		return nil, false
	}
	_, on = find(uefi.GlobalVariable, "PK")
	state := byte(0)
	if on {
		state = 1
	}
	measured = append(measured, Variable{uefi.GlobalVariable, "SecureBoot", []byte{state}})
	for _, v := range []Variable{{uefi.GlobalVariable, "PK", nil}, {uefi.GlobalVariable, "KEK", nil}, {uefi.SecurityDatabase, "db", nil}, {uefi.SecurityDatabase, "dbx", nil}} {
		v.Value, _ = find(v.Vendor, v.Name)
		measured = append(measured, v)
	}
	if v, ok := find(uefi.SecurityDatabase, "dbt"); ok {
		measured = append(measured, Variable{uefi.SecurityDatabase, "dbt", v})
	}
	return measured, on
}

func utf16String(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u = append(u, binary.LittleEndian.Uint16(b[i:]))
	}
	return string(utf16.Decode(u))
}
