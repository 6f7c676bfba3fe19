package tenant

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // old roots are signed so; here it only finds out by whom
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/trustee/store"
)

// simKeys holds, over all namespaces, the keys of simulated roots by their SPKI's
// digest: a certificate below one is no anchor of production. They stay when a
// root is deleted, as the marks of rootKinds do.
const simKeys = "simulated-root-keys"

// keepGenuine refuses a certificate for production that is a simulated vendor's:
// by its own words, or because a known simulated root signed it. (The root itself is
// refused by its mark, markKind.)
func keepGenuine(tx store.Tx, c *x509.Certificate) error {
	if simhw.Marked(c) {
		return fmt.Errorf("certificate %.200q is of simulated hardware, so it cannot be production's: %w", c.Subject, ErrConflict)
	}
	return tx.Scan(simKeys, "", func(id string, der []byte) (bool, error) {
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return false, fmt.Errorf("key %s of a simulated root: %w", id, err)
		}
		if signedBy(c, key) {
			return false, fmt.Errorf("certificate %.200q was issued by the simulated root %s, so it cannot be production's: %w", c.Subject, id, ErrConflict)
		}
		return true, nil
	})
}

// keepSimulated notes the key of a simulated root. One that has issued what
// production trusts already is refused.
func keepSimulated(tx store.Tx, id string, c *x509.Certificate) error {
	have, err := tx.Get(simKeys, id)
	if err != nil || have != nil {
		return err
	}
	spaces, err := store.List[trusteeapi.Namespace](tx, namespaces)
	if err != nil {
		return err
	}
	for _, n := range spaces {
		if n.Simulated {
			continue
		}
		trusted, err := productionCerts(tx, n.Name)
		if err != nil {
			return err
		}
		for _, t := range trusted {
			if signedBy(t, c.PublicKey) {
				return fmt.Errorf("root: it issued %.200q, which namespace %s trusts in production: %w", t.Subject, n.Name, ErrConflict)
			}
		}
	}
	return tx.Put(simKeys, id, c.RawSubjectPublicKeyInfo)
}

// productionCerts gives the certificates that anchor a production namespace.
func productionCerts(tx store.Tx, ns string) ([]*x509.Certificate, error) {
	roots, err := store.List[trusteeapi.EKRoot](tx, Bucket(ns, ekroots))
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, r := range roots {
		c, err := parseCert(r.Certificate)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	list, err := store.List[trusteeapi.Anchor](tx, Bucket(ns, anchors))
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		doc, err := tx.Get(Bucket(ns, anchordocs), a.TEE+"/"+a.Name)
		if err != nil {
			return nil, err
		}
		certs, err := verifiers.AnchorCertificates(a.TEE, a.Name, doc)
		if err != nil {
			return nil, err
		}
		out = append(out, certs...)
	}
	return out, nil
}

// signedBy says whether a key signed a certificate. Signatures over SHA-1, which
// crypto/x509 no longer looks at, count here.
func signedBy(c *x509.Certificate, key crypto.PublicKey) bool {
	err := (&x509.Certificate{PublicKey: key}).CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	if insecure := x509.InsecureAlgorithmError(0); !errors.As(err, &insecure) {
		return err == nil
	}
	sum := sha1.Sum(c.RawTBSCertificate) //nolint:gosec // see the import
	switch k := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA1, sum[:], c.Signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], c.Signature)
	}
	return false
}
