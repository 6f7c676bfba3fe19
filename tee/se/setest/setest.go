// Package setest plays an ultravisor with a host key of a test's: it opens
// attestation requests by the layout alone and measures what it is told to be.
//
// Trust zone: tests.
package setest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/cofferproject/coffer/tee/se"
)

// Machine is a guest on a machine with one host key.
type Machine struct {
	host *ecdh.PrivateKey
	// Tags are the image's, CUID the guest's id.
	Tags, CUID []byte
}

// New makes a machine that runs the image with these tags.
func New(tags []byte) (*Machine, error) {
	k, err := ecdh.P521().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Machine{host: k, Tags: tags, CUID: []byte("guest 0123456789")}, nil
}

// HostKey is the public host key.
func (m *Machine) HostKey() *ecdh.PublicKey { return m.host.PublicKey() }

// Attest answers a request: measurement, additional data and guest id.
func (m *Machine) Attest(_ context.Context, request, userData []byte) (measurement, additional, cuid []byte, err error) {
	secret, err := m.open(request)
	if err != nil {
		return nil, nil, nil, err
	}
	hash := m.hash()
	additional = append(hash, hash...) // one key has unpacked the image and the request
	return se.Measure(secret[:64], m.Tags, m.CUID, userData, secret[64:], additional), additional, m.CUID, nil
}

func (m *Machine) hash() []byte {
	h := sha256.Sum256(padded(m.host.PublicKey().Bytes()))
	return h[:]
}

func padded(point []byte) []byte {
	out := make([]byte, 160)
	copy(out[80-66:], point[1:67])
	copy(out[160-66:], point[67:])
	return out
}

func (m *Machine) open(b []byte) ([]byte, error) {
	be := binary.BigEndian
	if len(b) < 224+80+16 || be.Uint64(b) != 0 || be.Uint32(b[8:]) != 0x100 || int(be.Uint32(b[12:])) != len(b) || be.Uint64(b[48:]) != 0x7000000000000000 || be.Uint32(b[56:]) != 1 {
		return nil, errors.New("not an attestation request")
	}
	slots, size := int(b[39]), int(be.Uint32(b[44:]))
	aad := 224 + 80*slots
	if aad+size+16 != len(b) {
		return nil, errors.New("lengths do not add up")
	}
	point := append([]byte{4}, b[64+14:64+80]...)
	customer, err := ecdh.P521().NewPublicKey(append(point, b[144+14:144+80]...))
	if err != nil {
		return nil, err
	}
	shared, err := m.host.ECDH(customer)
	if err != nil {
		return nil, err
	}
	wrap := sha256.Sum256(append(shared, 0, 0, 0, 1))
	for i := range slots {
		slot := b[224+80*i : 224+80*(i+1)]
		if string(slot[:32]) != string(m.hash()) {
			continue
		}
		protection, err := open(wrap[:], make([]byte, 12), slot[32:], nil)
		if err != nil {
			return nil, err
		}
		return open(protection, b[16:28], b[aad:], b[:aad])
	}
	return nil, errors.New("no slot for this machine")
}

func open(key, iv, sealed, aad []byte) ([]byte, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	g, err := cipher.NewGCM(c)
	if err != nil {
		return nil, err
	}
	return g.Open(nil, iv, sealed, aad)
}
