// Package fakesev plays a platform's secure processor for tests: it has certificates
// of the published formats, opens an owner's session, measures, and takes a secret or
// refuses it. It is written from the SEV API specification and shares no code with
// tee/sev, so that each of the two shows the other's mistakes.
//
// Trust zone: tests only.
package fakesev

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
)

// Processor is one secure processor.
type Processor struct {
	// Chain is PDH, PEK, OCA and CEK; Vendors is ASK and ARK.
	Chain, Vendors      []byte
	Major, Minor, Build byte

	pdh      *ecdsa.PrivateKey
	tek, tik []byte
	policy   uint32
	measure  []byte
}

// key is a key with what its certificates say of it.
type key struct {
	*ecdsa.PrivateKey
	usage uint32
}

// New makes a processor of API 0.24, with keys of its own up to the root.
func New() (*Processor, error) {
	p := &Processor{Minor: 24, Build: 15}
	var keys [4]key
	for i, usage := range []uint32{0x1003, 0x1002, 0x1001, 0x1004} { // PDH, PEK, OCA, CEK
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, err
		}
		keys[i] = key{k, usage}
	}
	p.pdh = keys[0].PrivateKey
	ark, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ask, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	arkCert, err := vendor(&ark.PublicKey, 0, 1, ark)
	if err != nil {
		return nil, err
	}
	askCert, err := vendor(&ask.PublicKey, 0x13, 2, ark)
	if err != nil {
		return nil, err
	}
	p.Vendors = append(askCert, arkCert...)
	pdh, pek, oca, cek := keys[0], keys[1], keys[2], keys[3]
	for _, c := range []struct {
		of      key
		signers []key
	}{{pdh, []key{pek}}, {pek, []key{oca, cek}}, {oca, []key{oca}}, {cek, nil}} {
		cert, err := platform(c.of, c.signers)
		if err != nil {
			return nil, err
		}
		if c.of.usage == cek.usage {
			sum := sha256.Sum256(cert[:0x414])
			sig, err := rsa.SignPSS(rand.Reader, ask, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
			if err != nil {
				return nil, err
			}
			put(cert[0x414:], 0x13, 0x1, reversed(sig))
		}
		p.Chain = append(p.Chain, cert...)
	}
	return p, nil
}

func put(at []byte, usage, algorithm uint32, value []byte) {
	binary.LittleEndian.PutUint32(at, usage)
	binary.LittleEndian.PutUint32(at[4:], algorithm)
	copy(at[8:], value)
}

func reversed(b []byte) []byte { b = slices.Clone(b); slices.Reverse(b); return b }

func field(n *big.Int) []byte {
	b := reversed(n.FillBytes(make([]byte, 48)))
	return append(b, make([]byte, 24)...)
}

func platform(of key, signers []key) ([]byte, error) {
	b := make([]byte, 2084)
	b[0] = 1
	algorithm := uint32(0x2) // ECDSA with SHA-256
	if of.usage == 0x1003 {
		algorithm = 0x3 // ECDH
	}
	point, err := of.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	x, y := new(big.Int).SetBytes(point[1:49]), new(big.Int).SetBytes(point[49:])
	put(b[8:], of.usage, algorithm, slices.Concat([]byte{2, 0, 0, 0}, field(x), field(y)))
	put(b[0x414:], 0x1000, 0, nil)
	put(b[0x61c:], 0x1000, 0, nil)
	sum := sha256.Sum256(b[:0x414])
	for i, s := range signers {
		r, v, err := ecdsa.Sign(rand.Reader, s.PrivateKey, sum[:])
		if err != nil {
			return nil, err
		}
		put(b[0x414+i*0x208:], s.usage, 0x2, append(field(r), field(v)...))
	}
	return b, nil
}

func vendor(pub *rsa.PublicKey, usage uint32, id byte, signer *rsa.PrivateKey) ([]byte, error) {
	b := make([]byte, 0x40)
	b[0], b[4], b[0x14] = 1, id, 1 // all are signed by id 1
	binary.LittleEndian.PutUint32(b[0x24:], usage)
	binary.LittleEndian.PutUint32(b[0x38:], 2048)
	binary.LittleEndian.PutUint32(b[0x3c:], 2048)
	b = append(b, reversed(big.NewInt(int64(pub.E)).FillBytes(make([]byte, 256)))...)
	b = append(b, reversed(pub.N.FillBytes(make([]byte, 256)))...)
	sum := sha256.Sum256(b)
	sig, err := rsa.SignPSS(rand.Reader, signer, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	return append(b, reversed(sig)...), err
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(bytes.Join(parts, nil))
	return h.Sum(nil)
}

func u32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func derive(key []byte, label string, context []byte) []byte {
	return mac(key, u32(1), []byte(label), []byte{0}, context, u32(128))[:16]
}

func decrypt(key, iv, b []byte) ([]byte, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(b))
	cipher.NewCTR(c, iv).XORKeyStream(out, b)
	return out, nil
}

// Refusals of the processor's.
var (
	ErrSession = errors.New("BAD_MEASUREMENT: the session is not for this processor or policy")
	ErrState   = errors.New("INVALID_GUEST_STATE")
	ErrPacket  = errors.New("BAD_MEASUREMENT: the packet is not for this launch")
)

// Start opens an owner's session, as LAUNCH_START does.
func (p *Processor) Start(cert, session []byte, policy uint32) error {
	if len(cert) != 2084 || len(session) != 128 || binary.LittleEndian.Uint32(cert[8:]) != 0x1003 {
		return ErrSession
	}
	x, y := reversed(cert[0x14:0x14+48]), reversed(cert[0x14+72:0x14+72+48])
	pub, err := ecdh.P384().NewPublicKey(slices.Concat([]byte{4}, x, y))
	if err != nil {
		return err
	}
	own, err := p.pdh.ECDH()
	if err != nil {
		return err
	}
	z, err := own.ECDH(pub)
	if err != nil {
		return err
	}
	nonce, wrapped, iv, wrapMAC, policyMAC := session[:16], session[16:48], session[48:64], session[64:96], session[96:]
	master := derive(z, "sev-master-secret", nonce)
	if !hmac.Equal(mac(derive(master, "sev-kik", nil), wrapped), wrapMAC) {
		return ErrSession
	}
	keys, err := decrypt(derive(master, "sev-kek", nil), iv, wrapped)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac(keys[16:], u32(policy)), policyMAC) {
		return ErrSession
	}
	p.tek, p.tik, p.policy, p.measure = keys[:16], keys[16:], policy, nil
	return nil
}

// Measure gives the measurement of a launch with a launch digest, and its nonce.
func (p *Processor) Measure(digest []byte) (measure, nonce []byte, err error) {
	if p.tik == nil {
		return nil, nil, ErrState
	}
	nonce = make([]byte, 16)
	_, _ = rand.Read(nonce)
	p.measure = mac(p.tik, []byte{4, p.Major, p.Minor, p.Build}, u32(p.policy), digest, nonce)
	return p.measure, nonce, nil
}

// Inject takes a packet and gives the secret, as it is then in the guest's memory.
func (p *Processor) Inject(header, data []byte) ([]byte, error) {
	if p.measure == nil {
		return nil, ErrState
	}
	if len(header) != 52 {
		return nil, ErrPacket
	}
	flags, iv, sum := header[:4], header[4:20], header[20:]
	size := u32(uint32(len(data)))
	if !hmac.Equal(mac(p.tik, []byte{1}, flags, iv, size, size, data, p.measure), sum) {
		return nil, ErrPacket
	}
	return decrypt(p.tek, iv, data)
}

// Begin starts a launch with keys that nobody else has.
func (p *Processor) Begin() {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	p.tek, p.tik, p.measure = b[:16], b[16:], nil
}

// Packet makes what the owner of the launch would send.
func (p *Processor) Packet(secret []byte) (header, data []byte, err error) {
	iv := make([]byte, 16)
	_, _ = rand.Read(iv)
	if data, err = decrypt(p.tek, iv, secret); err != nil { // a stream: both ways alike
		return nil, nil, err
	}
	flags, size := make([]byte, 4), u32(uint32(len(data)))
	return slices.Concat(flags, iv, mac(p.tik, []byte{1}, flags, iv, size, size, data, p.measure)), data, nil
}
