//go:build cgo

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP's hash of the published mechanism for tests, where a module has no other; not broken in that use
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/big"

	"github.com/miekg/pkcs11"
)

const minRSABits, maxRSABits = 2048, 8192

// The published plugin's names of both mechanisms.
const (
	oaepSHA256 = "RsaPkcsOaep"
	oaepSHA1   = "RsaPkcsTest"
)

// rsaKey is an RSA key pair of the token. The private half never leaves it.
type rsaKey struct {
	t         *token
	private   pkcs11.ObjectHandle
	public    rsa.PublicKey
	mechanism string
}

func (t *token) findRSA(class uint, label string) (pkcs11.ObjectHandle, error) {
	found, err := t.matching(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d such RSA keys in the token", len(found))
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// openRSA looks for a key pair by its label. A private key that could be read out of
// the token is refused.
func (t *token) openRSA(label, mechanism string) (*rsaKey, error) {
	k := &rsaKey{t: t, mechanism: mechanism}
	if mechanism != oaepSHA256 && mechanism != oaepSHA1 {
		return nil, fmt.Errorf("mechanism %.40q is neither %s nor %s", mechanism, oaepSHA256, oaepSHA1)
	}
	var err error
	if k.private, err = t.findRSA(pkcs11.CKO_PRIVATE_KEY, label); err != nil {
		return nil, fmt.Errorf("private key %q: %w", label, err)
	}
	public, err := t.findRSA(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return nil, fmt.Errorf("public key %q: %w", label, err)
	}
	secret, err := t.p.GetAttributeValue(t.session, k.private, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil), pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("private key %q: %w", label, err)
	}
	if !bytes.Equal(secret[0].Value, []byte{1}) || !bytes.Equal(secret[1].Value, []byte{0}) {
		return nil, fmt.Errorf("private key %q can leave the token: it is not sensitive, or extractable", label)
	}
	open, err := t.p.GetAttributeValue(t.session, public, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("public key %q: %w", label, err)
	}
	if !bytes.Equal(open[0].Value, secret[2].Value) {
		return nil, fmt.Errorf("public and private key %q are no pair", label)
	}
	e := new(big.Int).SetBytes(open[1].Value)
	k.public.N = new(big.Int).SetBytes(open[0].Value)
	if n := k.public.N.BitLen(); n < minRSABits || n > maxRSABits || !e.IsInt64() || e.Int64() > 1<<31-1 {
		return nil, fmt.Errorf("public key %q: %d bits, not %d to %d, or a strange exponent", label, n, minRSABits, maxRSABits)
	}
	k.public.E = int(e.Int64())
	return k, nil
}

// makeRSA makes a key pair whose private half cannot leave the token.
func (t *token) makeRSA(label string, bits int) error {
	if bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("%d bits, not %d to %d", bits, minRSABits, maxRSABits)
	}
	found, err := t.matching(pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if err != nil {
		return fmt.Errorf("key %q: %w", label, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("the token has a key %q", label)
	}
	_, _, err = t.p.GenerateKeyPair(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
	})
	if err != nil {
		return fmt.Errorf("making key %q: %w", label, err)
	}
	return nil
}

func (k *rsaKey) oaep() (hash.Hash, *pkcs11.OAEPParams) {
	if k.mechanism == oaepSHA1 {
		return sha1.New(), pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil) //nolint:gosec // see the import
	}
	return sha256.New(), pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil)
}

// wrap needs no secret, and so no token.
func (k *rsaKey) wrap(plain []byte) ([]byte, error) {
	h, _ := k.oaep()
	if most := k.public.Size() - 2*h.Size() - 2; len(plain) > most {
		return nil, fmt.Errorf("%d bytes, at most %d", len(plain), most)
	}
	return rsa.EncryptOAEP(h, rand.Reader, &k.public, plain, nil)
}

func (k *rsaKey) unwrap(wrapped []byte) ([]byte, error) {
	if len(wrapped) != k.public.Size() {
		return nil, errors.New("of a wrong length")
	}
	_, params := k.oaep()
	k.t.mu.Lock()
	defer k.t.mu.Unlock()
	if err := k.t.p.DecryptInit(k.t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, params)}, k.private); err != nil {
		return nil, err
	}
	return k.t.p.Decrypt(k.t.session, wrapped)
}
