package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/trustee/store"
)

const (
	bucket  = "keyring"
	rootKey = "root"
	tlsKey  = "tls"
)

// Keys are the trustee's long-lived keys.
type Keys struct {
	Instance string // random name of this trustee
	CA       *x509.Certificate
	CAPEM    []byte
	MAC      []byte // 32 bytes, for sessions and TPM credentials

	caKey crypto.Signer
	// ear is the default namespace's first token key.
	ear struct {
		key, cert []byte
		made      time.Time
	}
}

// rootDoc is what the store holds, sealed.
type rootDoc struct {
	Instance string `json:"instance"`
	MAC      []byte `json:"mac"`
	CAKey    []byte `json:"ca_key"` // PKCS #8
	CACert   []byte `json:"ca_cert"`
	EARKey   []byte `json:"ear_key"`
	EARCert  []byte `json:"ear_cert"`
}

// tlsDoc is the TLS key pair at rest, sealed.
type tlsDoc struct {
	Key  []byte `json:"key"`
	Cert []byte `json:"cert"`
}

// Load gives the keys from the store and makes them at the first start.
func Load(ctx context.Context, s store.Store, kek KEK, now time.Time) (*Keys, error) {
	d := new(rootDoc)
	found, err := load(ctx, s, kek, rootKey, d)
	if err != nil {
		return nil, err
	}
	if !found {
		if d, err = newRoot(now); err != nil {
			return nil, fmt.Errorf("making keys: %w", err)
		}
		if err := save(ctx, s, kek, rootKey, d, false); err != nil {
			return nil, err
		}
		// Another replica may have been first: its keys are everybody's then.
		if _, err := load(ctx, s, kek, rootKey, d); err != nil {
			return nil, err
		}
	}
	return d.open()
}

func load(ctx context.Context, s store.Store, kek KEK, name string, v any) (bool, error) {
	var raw []byte
	err := s.View(ctx, func(tx store.Tx) error {
		b, err := tx.Get(bucket, name)
		raw = slices.Clone(b)
		return err
	})
	if err != nil || raw == nil {
		return false, err
	}
	plain, err := Decrypt(ctx, kek, bucket+"/"+name, raw)
	if err != nil {
		return false, err
	}
	defer clear(plain)
	if err := json.Unmarshal(plain, v); err != nil {
		return false, fmt.Errorf("keyring: %s: %w", name, err)
	}
	return true, nil
}

// save seals and keeps a document; replace says what becomes of one that is there.
func save(ctx context.Context, s store.Store, kek KEK, name string, v any, replace bool) error {
	plain, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("keyring: %s: %w", name, err)
	}
	defer clear(plain)
	box, err := Encrypt(ctx, kek, bucket+"/"+name, plain)
	if err != nil {
		return err
	}
	return s.Update(ctx, func(tx store.Tx) error {
		if !replace {
			if have, err := tx.Get(bucket, name); err != nil || have != nil {
				return err
			}
		}
		return tx.Put(bucket, name, box)
	})
}

func newRoot(now time.Time) (*rootDoc, error) {
	var id [8]byte
	rand.Read(id[:])
	d := &rootDoc{Instance: hex.EncodeToString(id[:]), MAC: make([]byte, keySize)}
	rand.Read(d.MAC)
	caKey, err := newKey(&d.CAKey)
	if err != nil {
		return nil, err
	}
	if d.CACert, err = selfSign(caKey, d.Instance, now); err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(d.CACert)
	if err != nil {
		return nil, err
	}
	earKey, err := newKey(&d.EARKey)
	if err != nil {
		return nil, err
	}
	d.EARCert, err = signEAR(ca, caKey, &earKey.PublicKey, now)
	return d, err
}

func newKey(pkcs8 *[]byte) (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	*pkcs8, err = x509.MarshalPKCS8PrivateKey(k)
	return k, err
}

func (d *rootDoc) open() (*Keys, error) {
	k := &Keys{Instance: d.Instance, MAC: d.MAC}
	if len(d.MAC) != keySize {
		return nil, errors.New("keyring: MAC key of a wrong length")
	}
	var err error
	if k.CA, err = x509.ParseCertificate(d.CACert); err != nil {
		return nil, fmt.Errorf("keyring: CA: %w", err)
	}
	if k.caKey, err = parseKey(d.CAKey); err != nil {
		return nil, fmt.Errorf("keyring: CA key: %w", err)
	}
	leaf, err := x509.ParseCertificate(d.EARCert)
	if err != nil {
		return nil, fmt.Errorf("keyring: token certificate: %w", err)
	}
	k.ear.key, k.ear.cert, k.ear.made = d.EARKey, d.EARCert, leaf.NotBefore.Add(backdate)
	k.CAPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.CA.Raw})
	return k, nil
}

func parseKey(pkcs8 []byte) (crypto.Signer, error) {
	v, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	k, ok := v.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key of type %T", v)
	}
	return k, nil
}

// TLS gives the server's certificate for exactly these names: the stored one, or
// a new one where that has other names or comes to its end.
func (k *Keys) TLS(ctx context.Context, s store.Store, kek KEK, names []string, now time.Time) (*tls.Certificate, error) {
	d := new(tlsDoc)
	found, err := load(ctx, s, kek, tlsKey, d)
	if err != nil {
		return nil, err
	}
	if found {
		c, err := x509.ParseCertificate(d.Cert)
		if err == nil && fits(c, names, now) {
			return k.certificate(d)
		}
	}
	key, err := newKey(&d.Key)
	if err != nil {
		return nil, fmt.Errorf("making TLS key: %w", err)
	}
	if d.Cert, err = signTLS(k.CA, k.caKey, &key.PublicKey, names, now); err != nil {
		return nil, fmt.Errorf("making TLS certificate: %w", err)
	}
	if err := save(ctx, s, kek, tlsKey, d, true); err != nil {
		return nil, err
	}
	return k.certificate(d)
}

func (k *Keys) certificate(d *tlsDoc) (*tls.Certificate, error) {
	key, err := parseKey(d.Key)
	if err != nil {
		return nil, fmt.Errorf("keyring: TLS key: %w", err)
	}
	leaf, err := x509.ParseCertificate(d.Cert)
	if err != nil {
		return nil, fmt.Errorf("keyring: TLS certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{d.Cert}, PrivateKey: key, Leaf: leaf}, nil
}
