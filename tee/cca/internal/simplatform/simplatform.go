// Package simplatform is what simulated Arm CCA platforms say of their firmware:
// there is none, so the values are fixed and spell that out. Simulator and
// verifier share them; no production verifier takes them.
//
// Trust zone: simulator and trustee.
package simplatform

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"

	"github.com/cofferproject/coffer/tee/cca/token"
)

// Fixed claims of a simulated platform.
const (
	Hash = "sha-256"
	// Lifecycle is "secured": what a policy for real hardware demands.
	Lifecycle = 0x3000
)

// ImplementationID names the simulator as the implementation.
var ImplementationID = sum("coffer simulated CCA platform: implementation")

// Config is the platform configuration.
var Config = []byte{0, 0, 0, 0}

// Components lists the simulated firmware.
func Components() []token.Component {
	var out []token.Component
	for _, name := range []string{"BL", "RMM"} {
		m, s := sum("coffer simulated CCA platform: "+name), sum("coffer simulated CCA platform: signer")
		out = append(out, token.Component{Type: name, Measurement: m[:], SignerID: s[:], Hash: Hash})
	}
	return out
}

// InstanceID derives a platform's id from its CPAK, as real ones do from theirs.
func InstanceID(cpak *ecdsa.PublicKey) ([]byte, error) {
	point, err := cpak.Bytes()
	if err != nil {
		return nil, fmt.Errorf("instance id: %w", err)
	}
	h := sha256.Sum256(point)
	return append([]byte{1}, h[:]...), nil
}

func sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }
