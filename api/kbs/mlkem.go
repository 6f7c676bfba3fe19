package kbs

import (
	"crypto/mlkem"
	"crypto/sha3"
	"encoding/base64"
	"encoding/binary"
)

// AlgMLKEM is the key management with ML-KEM-768, as the published server reads
// draft-ietf-jose-pqc-kem-05: not final, and there only where a client's key is of
// that kind.
const AlgMLKEM = "ML-KEM-768+A192KW"

const kekMLKEM = 24 // bytes of the key that wraps

func sealMLKEM(k *mlkem.EncapsulationKey768, cek []byte) (header string, wrapped []byte, err error) {
	shared, ct := k.Encapsulate()
	defer clear(shared)
	kek := kdfMLKEM(shared)
	defer clear(kek)
	if wrapped, err = wrapKey(kek, cek); err != nil {
		return "", nil, err
	}
	return `{"alg":"` + AlgMLKEM + `","enc":"` + encA256GCM + `","ek":"` + base64.RawURLEncoding.EncodeToString(ct) + `"}`, wrapped, nil
}

// kdfMLKEM derives the wrapping key: KMAC256 over the algorithm's name and the
// key's length in bits.
func kdfMLKEM(shared []byte) []byte {
	x := binary.BigEndian.AppendUint32(nil, uint32(len(AlgMLKEM)))
	x = append(x, AlgMLKEM...)
	x = binary.BigEndian.AppendUint32(x, 8*kekMLKEM)
	return kmac256(shared, x, kekMLKEM, "")
}

// kmac256 is KMAC256 of NIST SP 800-185, section 4.3, with n bytes of output.
func kmac256(key, x []byte, n int, custom string) []byte {
	const rate = 136 // bytes of cSHAKE256's block
	h := sha3.NewCSHAKE256([]byte("KMAC"), []byte(custom))
	pad := append(leftEncode(rate), leftEncode(8*len(key))...)
	pad = append(pad, key...)
	pad = append(pad, make([]byte, (rate-len(pad)%rate)%rate)...)
	defer clear(pad)
	h.Write(pad)
	h.Write(x)
	h.Write(rightEncode(8 * n))
	out := make([]byte, n)
	h.Read(out)
	return out
}

// digits gives the shortest big-endian form of v, at least one byte.
func digits(v int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(v))
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// leftEncode and rightEncode are of SP 800-185, section 2.3.1.
func leftEncode(v int) []byte { return append([]byte{byte(len(digits(v)))}, digits(v)...) }

func rightEncode(v int) []byte { return append(digits(v), byte(len(digits(v)))) }
