package sim

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"slices"
)

// Field is one opaque data item of a report.
type Field struct {
	Type  uint16
	Value []byte
}

// Messages gives the SPDM request and response up to the signature. measurements
// are by report index, from 1; nonce has 32 bytes.
func Messages(nonce []byte, measurements map[int][]byte, opaque []Field) []byte {
	b := append([]byte{0x11, 0xe0, 0x01, 0xff}, nonce...)
	b = append(b, 0) // slot
	var record []byte
	n := 0
	for i := 1; i <= 255; i++ {
		m, ok := measurements[i]
		if !ok {
			continue
		}
		n++
		record = append(record, byte(i), 1)
		record = binary.LittleEndian.AppendUint16(record, uint16(len(m)+3))
		record = append(record, 1)
		record = binary.LittleEndian.AppendUint16(record, uint16(len(m)))
		record = append(record, m...)
	}
	b = append(b, 0x11, 0x60, 0, 0, byte(n), byte(len(record)), byte(len(record)>>8), byte(len(record)>>16))
	b = append(b, record...)
	b = append(b, make([]byte, 32)...) // the device's nonce
	var data []byte
	for _, f := range opaque {
		data = binary.LittleEndian.AppendUint16(data, f.Type)
		data = binary.LittleEndian.AppendUint16(data, uint16(len(f.Value)))
		data = append(data, f.Value...)
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// Sign appends a device's signature to its messages.
func Sign(key *ecdsa.PrivateKey, b []byte) ([]byte, error) {
	sig, err := raw(key, b)
	return append(slices.Clone(b), sig...), err
}

// raw is r and s of 48 bytes each over SHA-384.
func raw(key *ecdsa.PrivateKey, b []byte) ([]byte, error) {
	h := sha512.Sum384(b)
	r, s, err := ecdsa.Sign(rand.Reader, key, h[:])
	if err != nil {
		return nil, err
	}
	sig := make([]byte, 96)
	r.FillBytes(sig[:48])
	s.FillBytes(sig[48:])
	return sig, nil
}
