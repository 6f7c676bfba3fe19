package uefi

import (
	"encoding/binary"
	"errors"
)

// authenticatedStore marks a store of authenticated variables.
var authenticatedStore = GUID{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}

// VariableStore gives where, in a volume of variables, the variables of its store
// begin and where they must end (EDK2, VARIABLE_STORE_HEADER).
func VariableStore(volume []byte) (begin, end int, err error) {
	le := binary.LittleEndian
	if len(volume) < 72 || string(volume[40:44]) != "_FVH" {
		return 0, 0, errors.New("variable store: no firmware volume")
	}
	head := int(le.Uint16(volume[48:]))
	if head+28 > len(volume) || GUID(volume[head:head+16]) != authenticatedStore {
		return 0, 0, errors.New("variable store: not one of authenticated variables")
	}
	size := int64(le.Uint32(volume[head+16:]))
	if size < 28 || int64(head)+size > int64(len(volume)) {
		return 0, 0, errors.New("variable store: does not fit into its volume")
	}
	return head + 28, head + int(size), nil
}
