package certchain_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
)

func TestVerify(t *testing.T) {
	d := nvidiatest.NewVendor(t, "GH100", nil).NewDevice(t, "HOPPER")
	now, chain := nvidiatest.Begin.AddDate(1, 0, 0), d.Certs()
	roots := []*x509.Certificate{chain[4]}
	root, err := certchain.Verify(chain, roots, now)
	if err != nil || root != chain[4] {
		t.Fatalf("%v", err)
	}
	// The root issued anew under its key, and with a signature that is not its own.
	again, err := x509.ParseCertificate(chain[4].Raw)
	if err != nil {
		t.Fatal(err)
	}
	bent := bytes.Clone(chain[4].Raw)
	bent[len(bent)-1] ^= 1
	forged, err := x509.ParseCertificate(bent)
	if err != nil {
		t.Fatal(err)
	}
	with := func(last *x509.Certificate) []*x509.Certificate { return append(slices.Clone(chain[:4]), last) }
	if _, err := certchain.Verify(with(again), roots, now); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		chain, roots []*x509.Certificate
		years        int
		want         error
	}{
		"forged root":   {with(forged), roots, 0, certchain.ErrUntrusted},
		"no root known": {chain, nil, 0, certchain.ErrUntrusted},
		"leaf alone":    {chain[:1], roots, 0, certchain.ErrUntrusted},
		"root alone":    {chain[4:], roots, 0, certchain.ErrUntrusted},
		"root twice":    {append(slices.Clone(chain), chain[4]), roots, 0, certchain.ErrUntrusted},
		"gap":           {slices.Delete(slices.Clone(chain), 2, 3), roots, 0, certchain.ErrUntrusted},
		"too late":      {chain, roots, 20, certchain.ErrExpired},
		"too early":     {chain, roots, -5, certchain.ErrExpired},
	} {
		if _, err := certchain.Verify(c.chain, c.roots, now.AddDate(c.years, 0, 0)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePEM(f *testing.F) {
	d := nvidiatest.NewVendor(f, "GH100", nil).NewDevice(f, "HOPPER")
	good := nvidiatest.PEM(d.Certs()...)
	f.Add(good)
	f.Add(append([]byte("x"), good...))
	f.Add(good[:len(good)-40])
	f.Add(bytes.Repeat(good, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := certchain.ParsePEM(b)
		if err != nil {
			return
		}
		if len(certs) == 0 || len(certs) > certchain.MaxCertificates {
			t.Errorf("%d certificates", len(certs))
		}
		again, err := certchain.ParsePEM(nvidiatest.PEM(certs...))
		if err != nil || !slices.EqualFunc(certs, again, (*x509.Certificate).Equal) {
			t.Errorf("%v", err)
		}
	})
}
