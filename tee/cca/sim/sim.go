// Package sim is the hardware model of simulated Arm CCA machines: a platform with
// an attestation key of its own and one realm, which gives tokens of the real
// format. It measures what it is given (from the running QEMU), with code of its
// own: nothing of it is package measure's.
//
// Invariant: its platform calls itself the simulator's (implementation id), so
// that no production verifier takes it, whatever the keys. coffer-simhw links it;
// no guest does.
//
// Trust zone: none. Simulation protects nothing.
package sim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/internal/simplatform"
	"github.com/cofferproject/coffer/tee/cca/token"
)

// Note is the simulation note of evidence from this model. Whoever runs it may
// put more behind it.
const Note = "simulated Arm CCA: no realm, the host owns the keys, nothing is protected; " +
	"kernel, initrd, command line, memory, vCPUs and initdata are the running QEMU's; " +
	"platform firmware is fixed text, host capabilities and the device tree are the simulator's"

// Inputs are what the monitor would measure.
type Inputs struct {
	Kernel, Initrd []byte
	Cmdline        string
	MemoryMiB      int
	VCPUs          int
	// RPV is the realm personalization value: the initdata digest (SHA-512) or zeros.
	RPV [cca.RPVSize]byte
}

// Machine is one simulated realm. It implements attest.Reporter and is safe for
// concurrent use.
type Machine struct {
	cpak, rak *ecdsa.PrivateKey
	note      string
	platform  token.Platform
	realm     token.Realm
}

var _ attest.Reporter = (*Machine)(nil)

// NewRoot makes a machine's platform key (CPAK) and the certificate under which a
// simulated namespace knows it. Real platforms have no chain: the key itself is
// what a trust anchor store lists.
func NewRoot(now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a simulated CPAK: %w", err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Coffer simulated Arm CCA platform", Organization: []string{simhw.Organization}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a simulated CPAK: %w", err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("making a simulated CPAK: %w", err)
	}
	return key, c, nil
}

// New starts a realm on the platform of cpak. note is for the evidence; "" is Note.
func New(cpak *ecdsa.PrivateKey, in *Inputs, note string) (*Machine, error) {
	if cpak.Curve != elliptic.P384() {
		return nil, errors.New("simulated Arm CCA: the platform key is not on P-384")
	}
	rim, err := measure(in)
	if err != nil {
		return nil, fmt.Errorf("simulated Arm CCA: %w", err)
	}
	rak, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("simulated Arm CCA: %w", err)
	}
	point, err := rak.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("simulated Arm CCA: %w", err)
	}
	id, err := simplatform.InstanceID(&cpak.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("simulated Arm CCA: %w", err)
	}
	if note == "" {
		note = Note
	}
	bound, life := sha256.Sum256(point), uint16(simplatform.Lifecycle)
	m := &Machine{
		cpak: cpak, rak: rak, note: note,
		platform: token.Platform{
			Profile: token.ProfileSSD, Challenge: bound[:], ImplementationID: simplatform.ImplementationID[:], InstanceID: id,
			Config: simplatform.Config, Lifecycle: &life, Components: simplatform.Components(), Hash: simplatform.Hash,
		},
		realm: token.Realm{RPV: in.RPV[:], RIM: rim, Hash: "sha-512", PublicKey: point, PublicKeyHash: "sha-256"},
	}
	for range token.REMs {
		m.realm.REM = append(m.realm.REM, make([]byte, 64))
	}
	return m, nil
}

// RIM is the realm initial measurement.
func (m *Machine) RIM() []byte { return append([]byte(nil), m.realm.RIM...) }

// InitdataRegister is the realm personalization value.
func (m *Machine) InitdataRegister() []byte { return append([]byte(nil), m.realm.RPV...) }

// Note is the simulation note.
func (m *Machine) Note() string { return m.note }

// Provider implements attest.Reporter.
func (m *Machine) Provider() string { return cca.Provider }

// Report implements attest.Reporter: the token over a challenge of 64 bytes.
func (m *Machine) Report(_ context.Context, inblob []byte) (outblob, auxblob []byte, err error) {
	if len(inblob) != cca.ChallengeSize {
		return nil, nil, fmt.Errorf("simulated Arm CCA: challenge of %d bytes, not %d", len(inblob), cca.ChallengeSize)
	}
	outblob, err = m.Token([cca.ChallengeSize]byte(inblob))
	return outblob, nil, err
}

// Token gives a token collection over a challenge.
func (m *Machine) Token(challenge [cca.ChallengeSize]byte) ([]byte, error) {
	realm := m.realm
	realm.Challenge = challenge[:]
	b, err := Sign(m.cpak, m.rak, &m.platform, &realm)
	if err != nil {
		return nil, fmt.Errorf("simulated Arm CCA: %w", err)
	}
	return b, nil
}
