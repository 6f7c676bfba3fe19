package simhw

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func newRoot() (*ecdsa.PrivateKey, *x509.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	return k, c, err
}

// TestRootIsOne asks for the machine's root from many sides at once.
func TestRootIsOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	roots := make([]*x509.Certificate, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			k, c, err := Root(dir, "test", newRoot)
			if err != nil || !k.PublicKey.Equal(c.PublicKey) {
				t.Error(err)
				return
			}
			roots[i] = c
		})
	}
	wg.Wait()
	for _, c := range roots {
		if c == nil || !c.Equal(roots[0]) {
			t.Fatal("two roots on one machine")
		}
	}
	if spki(roots[0].Raw) == "" {
		t.Error("no fingerprint")
	}
	p := filepath.Join(dir, "test.pem")
	if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(p, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Root(dir, "test", newRoot); err == nil {
		t.Error("a damaged root is replaced without a word")
	}
}
