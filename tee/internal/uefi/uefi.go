// Package uefi reads what the measured boots of several TEEs have in common: PE
// images as firmware measures them, firmware volumes and their files, stores of
// variables, load options (UEFI 2.10; UEFI Platform Initialization 1.8, volume 3;
// EDK2).
//
// Invariants: bounded and never panics on any bytes; what does not fit is an error.
//
// Trust zone: owner.
package uefi

import (
	"encoding/binary"
	"unicode/utf16"
)

// GUID is an EFI_GUID in its byte order on disk.
type GUID [16]byte

// Vendors of variables that firmware measures.
var (
	GlobalVariable   = GUID{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	SecurityDatabase = GUID{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// UTF16Z is s in UTF-16LE with its terminator.
func UTF16Z(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// VariableData is a variable as firmware logs it (UEFI_VARIABLE_DATA): vendor,
// length of the name in characters, length of the value, both.
func VariableData(vendor GUID, name string, value []byte) []byte {
	n := UTF16Z(name)
	b := append([]byte(nil), vendor[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(n)/2-1))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	b = append(b, n[:len(n)-2]...)
	return append(b, value...)
}
