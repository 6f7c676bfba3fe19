// Package chain verifies the certificates of Hygon's keys: root key (HRK), signing
// key (HSK), a chip's endorsement key (CEK), and what these sign. CPUs (csv) and
// accelerators (hygondcu) have the same chain.
//
// Invariants: only the root key that the caller has chosen is believed; without
// certificates from evidence or collateral there is no chain.
//
// Trust zone: trustee and owner.
package chain

import "encoding/hex"

// Root is a key that Hygon's certificates lead to.
type Root struct {
	// X and Y are the point's coordinates, big-endian.
	X, Y []byte
	// ID is the signer's.
	ID []byte
}

// HRK is Hygon's root key. Its certificate is published at
// https://cert.hygon.cn/hrk (SM3 of the file:
// f5a46663059fdb4cdd06d097ed21782142923bb3430b3b938f23d54292094e3a). The key
// below is the one in Hygon's and Alibaba's verifier of the project rats-tls
// (hygoncert, Apache-2.0), and in another, independent one; it is a point of the
// curve, which no slip of the pen would be. SHA-256 of x followed by y:
// cfb7744bde61a72690c5d46410131a53ce3de8702f178c64d3152ea1e4194282.
func HRK() *Root {
	return &Root{
		X:  unhex("be62e14d62a4f14cf3d702db09563a75c80935e785cd1f502af5f21d92c2f62d"),
		Y:  unhex("3bab123a57bb7015584f8b97164e95384a640c10b9be884738744d68b41eb946"),
		ID: []byte("HYGON-SSD-HRK"),
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant
	}
	return b
}
