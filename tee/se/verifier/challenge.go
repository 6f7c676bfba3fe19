package verifier

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/verify"
)

// Parts of an attestation request (s390-tools, attestation request control block),
// in bytes; all numbers are big-endian.
const (
	requestHead  = 48
	requestAuth  = 16
	coordSize    = 80 // of P-521, padded
	keySlotSize  = se.PHKHSize + 32 + 16
	confidential = se.KeySize + se.NonceSize
	gcmTag       = 16
	maxHostKeys  = 128

	algHMACSHA512 = 1
	// Flags, counted from the highest bit: 1 a nonce, 2 the image's and 3 the
	// request's host key hash.
	requestFlags = 7 << 60
)

// HostKeyHash is the hash that names a host key in evidence.
func HostKeyHash(k *ecdh.PublicKey) ([]byte, error) {
	c, err := coordinates(k)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(c)
	return h[:], nil
}

func coordinates(k *ecdh.PublicKey) ([]byte, error) {
	if k.Curve() != ecdh.P521() {
		return nil, errors.New("host key is not on P-521")
	}
	point := k.Bytes()[1:] // uncompressed: x, y
	n := len(point) / 2
	out := make([]byte, 2*coordSize)
	copy(out[coordSize-n:], point[:n])
	copy(out[2*coordSize-n:], point[n:])
	return out, nil
}

// NewChallenge makes the challenge for one session: a fresh measurement key and
// nonce, encrypted for the machines whose host keys are given and sealed for this
// trustee. The host keys must come from host key documents whose chain to IBM has
// been verified: whoever has a key of his own among them can forge evidence.
func NewChallenge(s *Sealer, hostKeys []*ecdh.PublicKey, image *se.Tags) (*se.Challenge, error) {
	if len(hostKeys) == 0 || len(hostKeys) > maxHostKeys {
		return nil, fmt.Errorf("se challenge: %d host keys, at least 1 and at most %d", len(hostKeys), maxHostKeys)
	}
	secret := make([]byte, confidential)
	_, _ = rand.Read(secret) // never fails
	request, err := encryptRequest(hostKeys, secret)
	if err != nil {
		return nil, fmt.Errorf("se challenge: %w", err)
	}
	return &se.Challenge{
		Request: request, MeasurementSize: se.MeasurementSize, AdditionalSize: se.AdditionalSize, Tags: image.Bytes(),
		SealedKey: s.Seal(MeasurementKey, secret[:se.KeySize]), SealedNonce: s.Seal(RequestNonce, secret[se.KeySize:]),
	}, nil
}

// Challenges makes the challenges of one namespace.
type Challenges struct {
	Sealer   *Sealer
	HostKeys []*ecdh.PublicKey // of the machines that may answer; see NewChallenge
	Image    *se.Tags          // the one that may attest
}

// Challenge gives the nonce of a new session: the text of a fresh challenge. What
// would be denied whatever the answer is denied here.
func (v *Verifier) Challenge() (string, error) {
	if v.cfg.Kind != verify.Production {
		return "", verify.Mismatch(verify.ReasonNotSimulated, Component, "root", "an ultravisor", "a simulator's (there is none for Secure Execution)", "simulated namespace")
	}
	if err := v.cfg.Unproven(Component, Unproven); err != nil {
		return "", err
	}
	c := v.cfg.Challenges
	switch {
	case c == nil || c.Sealer == nil:
		return "", verify.Deny(ReasonNoChallenge, Component, "sealing key", errors.New("this trustee has none"))
	case len(c.HostKeys) == 0:
		return "", verify.Deny(ReasonNoChallenge, Component, "host keys", errors.New("none are registered: anchor se/host-keys"))
	case c.Image == nil:
		return "", verify.Deny(ReasonNoChallenge, Component, "image header", errors.New("none is registered: anchor se/image-header"))
	}
	x, err := NewChallenge(c.Sealer, c.HostKeys, c.Image)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(x)
	if err != nil {
		return "", fmt.Errorf("se challenge: %w", err)
	}
	return string(b), nil
}

func encryptRequest(hostKeys []*ecdh.PublicKey, secret []byte) ([]byte, error) {
	customer, err := ecdh.P521().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := coordinates(customer.PublicKey())
	if err != nil {
		return nil, err
	}
	var protection [32]byte
	var iv [12]byte
	_, _ = rand.Read(protection[:])
	_, _ = rand.Read(iv[:])

	be := binary.BigEndian
	aad := make([]byte, requestHead+requestAuth, requestHead+requestAuth+len(public)+len(hostKeys)*keySlotSize)
	be.PutUint32(aad[8:], se.Version)
	be.PutUint32(aad[12:], uint32(cap(aad)+len(secret)+gcmTag))
	copy(aad[16:], iv[:])
	aad[39] = byte(len(hostKeys))
	be.PutUint32(aad[44:], uint32(len(secret)))
	be.PutUint64(aad[48:], requestFlags)
	be.PutUint32(aad[56:], algHMACSHA512)
	aad = append(aad, public...)
	for i, k := range hostKeys {
		slot, err := keySlot(customer, k, protection[:])
		if err != nil {
			return nil, fmt.Errorf("host key %d: %w", i, err)
		}
		aad = append(aad, slot...)
	}
	g, err := gcm(protection[:])
	if err != nil {
		return nil, err
	}
	return g.Seal(aad, iv[:], secret, aad), nil
}

// keySlot wraps the request's protection key for one machine: its key's hash,
// then AES-256-GCM under the hash of the shared secret and a counter of 1. The
// initialisation vector of zeros is used once, since the shared secret is fresh.
func keySlot(customer *ecdh.PrivateKey, host *ecdh.PublicKey, protection []byte) ([]byte, error) {
	hash, err := HostKeyHash(host)
	if err != nil {
		return nil, err
	}
	shared, err := customer.ECDH(host)
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(append(shared, 0, 0, 0, 1))
	g, err := gcm(key[:])
	if err != nil {
		return nil, err
	}
	return g.Seal(hash, make([]byte, g.NonceSize()), protection, nil), nil //nolint:gosec // the architecture says zeros; the key is used once
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}
