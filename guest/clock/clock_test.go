package clock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

var floor = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func issue(t *testing.T, from, to time.Time) (leaf, root *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make := func(tmpl, parent *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: from, NotAfter: to}
	root = make(ca, ca)
	return make(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"kbs"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: from, NotAfter: to}, root), root
}

func TestCertificatesBeforeAndAfterTheFirstSignedTime(t *testing.T) {
	for _, c := range []struct {
		name          string
		from, to      time.Time
		before, after bool // accepted before and after a signed time of floor+30 days
	}{
		{"made after the image", floor.AddDate(0, 0, 10), floor.AddDate(1, 0, 0), true, true},
		{"ended before the image was made", floor.AddDate(-1, 0, 0), floor.AddDate(0, 0, -1), false, false},
		{"ended since", floor.AddDate(-1, 0, 0), floor.AddDate(0, 0, 10), true, false},
		{"begins later than the signed time", floor.AddDate(0, 2, 0), floor.AddDate(1, 0, 0), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf, root := issue(t, c.from, c.to)
			k, err := New(floor)
			if err != nil {
				t.Fatal(err)
			}
			check := func() bool {
				return k.VerifyChain([]*x509.Certificate{leaf}, []*x509.Certificate{root}, "kbs", x509.ExtKeyUsageServerAuth) == nil
			}
			if check() != c.before {
				t.Errorf("before the first signed time: accepted is not %v", c.before)
			}
			if err := k.Observe(floor.AddDate(0, 0, 30)); err != nil {
				t.Fatal(err)
			}
			if check() != c.after {
				t.Errorf("after the first signed time: accepted is not %v", c.after)
			}
		})
	}
}

func TestOtherChecksHoldWithoutTime(t *testing.T) {
	leaf, root := issue(t, floor, floor.AddDate(1, 0, 0))
	_, other := issue(t, floor, floor.AddDate(1, 0, 0))
	k, _ := New(floor)
	l := []*x509.Certificate{leaf}
	if k.VerifyChain(l, []*x509.Certificate{other}, "kbs", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("another CA was accepted")
	}
	if k.VerifyChain(l, []*x509.Certificate{root}, "evil", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("another name was accepted")
	}
	if k.VerifyChain(l, []*x509.Certificate{root}, "kbs", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("another use was accepted")
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	k, _ := New(floor)
	now := time.Now()
	k.mono = func() time.Time { return now }
	if k.Observe(floor.AddDate(0, 0, -1)) == nil {
		t.Error("a signed time before the floor was accepted")
	}
	if err := k.Observe(floor.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := k.Observe(floor.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, want := k.Now(), floor.Add(time.Hour+time.Minute); !got.Equal(want) {
		t.Errorf("now %s, want %s", got, want)
	}
}
