package verifier

import (
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/snp/sim"
)

const publishedVCEK = "https://kdsintf.amd.com/vcek/v1/Milan/c38427a30d4c7af9d96f7a15b97269825a64cb76a2352ffd5d18115d89ad473f8e8c0bcd9a5d9286612bad4aadfb4426205a3b9e4fea82301135a170e477524e?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"

func TestParseVCEKOrigin(t *testing.T) {
	n, err := ParseVCEKOrigin(publishedVCEK)
	if err != nil || n.Product != Milan || n.TCB.Bootloader != 3 || n.TCB.SNP != 8 || n.TCB.Microcode != 115 || VCEKOrigin(n.Product, n.ChipID, n.TCB) != publishedVCEK {
		t.Errorf("got %+v, %v", n, err)
	}
	turin := "https://kdsintf.amd.com/vcek/v1/Turin/1e55000000000000?fmcSPL=00&blSPL=00&teeSPL=00&snpSPL=00&ucodeSPL=09"
	if n, err := ParseVCEKOrigin(turin); err != nil || !n.TCB.WithFMC || n.ChipID[1] != 0x55 {
		t.Errorf("got %+v, %v", n, err)
	}
	for _, s := range []string{
		"", publishedVCEK + "&x=1", strings.Replace(publishedVCEK, "https", "http", 1), strings.Replace(publishedVCEK, "kdsintf", "evil", 1),
		strings.Replace(publishedVCEK, "Milan", "Turin", 1), strings.Replace(publishedVCEK, "Milan", "Rome", 1), strings.Replace(publishedVCEK, "c384", "C384", 1),
		strings.Replace(publishedVCEK, "=115", "=0115", 1), strings.Replace(publishedVCEK, "=115", "=300", 1), strings.Replace(publishedVCEK, "=03", "=3", 1),
		strings.Replace(publishedVCEK, "bl", "fmcSPL=00&bl", 1), strings.Replace(turin, "fmcSPL=00&", "", 1), strings.Replace(turin, "1e55", "0000", 1),
		publishedVCEK + "\n", strings.Replace(publishedVCEK, "/Milan/", "/Milan/../Milan/", 1), CRLOrigin(Milan, false),
	} {
		if n, err := ParseVCEKOrigin(s); err == nil {
			t.Errorf("%q: taken for %+v", s, n)
		}
	}
}

func TestCheckPublishedVCEK(t *testing.T) {
	good := &collateral.Item{Origin: publishedVCEK, Body: read(t, "snp", "test-vcek.der")}
	v, err := CheckPublished(good)
	if err != nil || !v.Immutable || !v.Issued.Before(vectorTime) || !v.Until.After(vectorTime) {
		t.Errorf("got %+v, %v", v, err)
	}
	for name, it := range map[string]*collateral.Item{
		"another chip's":     {Origin: publishedVCEK, Body: read(t, "snp", "vcek_milan.der")},
		"another product's":  {Origin: publishedVCEK, Body: read(t, "snp", "vcek_turin.der")},
		"another TCB's":      {Origin: strings.Replace(publishedVCEK, "snpSPL=08", "snpSPL=09", 1), Body: good.Body},
		"broken":             {Origin: publishedVCEK, Body: read(t, "snp", "test-vcek-invalid-legacy.der")},
		"a page":             {Origin: publishedVCEK, Body: []byte("<html>")},
		"an unknown origin":  {Origin: "https://kdsintf.amd.com/vcek/v1/Milan/cert_chain", Body: good.Body},
		"a list's place":     {Origin: CRLOrigin(Milan, false), Body: good.Body},
		"more than a little": {Origin: publishedVCEK, Body: make([]byte, MaxPublished+1)},
	} {
		if v, err := CheckPublished(it); err == nil {
			t.Errorf("%s: taken, %+v", name, v)
		}
	}
}

// AMD's lists are not at hand, so the check is shown with a root of our own, and
// that by AMD's roots nobody else's list passes.
func TestCheckPublishedList(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a, err := sim.NewAuthority(from)
	if err != nil {
		t.Fatal(err)
	}
	list, err := a.CRL(from, from.AddDate(1, 0, 0), big.NewInt(7))
	if err != nil {
		t.Fatal(err)
	}
	own := &anchor{product: Milan, ark: a.Root()}
	if v, err := own.checkCRL(list); err != nil || v.Immutable || !v.Issued.Equal(from) || !v.Until.Equal(from.AddDate(1, 0, 0)) {
		t.Errorf("got %+v, %v", v, err)
	}
	for _, o := range StandingOrigins() {
		if _, err := CheckPublished(&collateral.Item{Origin: o, Body: list}); err == nil {
			t.Errorf("%s: a list of another root is taken", o)
		}
	}
	weak, err := a.SignCRL(&x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: from.AddDate(1, 0, 0), SignatureAlgorithm: x509.SHA256WithRSA})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.checkCRL(weak); err == nil {
		t.Error("a list with another signature algorithm is taken")
	}
}

func FuzzCheckPublished(f *testing.F) {
	f.Add(publishedVCEK, read(f, "snp", "test-vcek.der"))
	f.Add(CRLOrigin(Turin, true), []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, origin string, body []byte) {
		v, err := CheckPublished(&collateral.Item{Origin: origin, Body: body})
		if err == nil && (v.Until.Before(v.Issued) || v.Issued.IsZero()) {
			t.Errorf("taken, from %s to %s", v.Issued, v.Until)
		}
	})
}
