package ocicrypt

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
)

// Seal wraps private layer options under a KEK (32 bytes) as a packet of the
// older form: it is what every published reader understands, the newer ones
// included, and for a KBS key the newer form adds only default values.
func Seal(kid string, kek, plbco []byte) ([]byte, error) {
	p := Packet{KID: kid, WrapType: WrapA256GCM, IV: make([]byte, 12)}
	if _, err := rand.Read(p.IV); err != nil {
		return nil, fmt.Errorf("making a nonce: %w", err)
	}
	gcm, err := p.gcm(kek)
	if err != nil {
		return nil, err
	}
	p.WrappedData = gcm.Seal(nil, p.IV, plbco, nil)
	b, err := json.Marshal(&p)
	if err != nil {
		return nil, fmt.Errorf("writing annotation packet: %w", err)
	}
	return b, nil
}
