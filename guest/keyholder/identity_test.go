package keyholder

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/svid"
	"github.com/cofferproject/coffer/test/fakekbs"
)

func documentAA(t *testing.T, k *fakekbs.KBS, change func(*initdata.AAConfig)) []byte {
	t.Helper()
	aa := &initdata.AAConfig{}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: k.URL, Cert: k.CAPEM()}
	change(aa)
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A trustee that knows no bindings serves secrets as ever, but no pod that is pinned.
func TestTrusteeWithoutBindings(t *testing.T) {
	k := simpleKBS(t)
	p := runPod(t, documentAA(t, k, func(aa *initdata.AAConfig) { aa.Identities = []string{"web"} }), openFake)
	if b, err := p.get(t, "kbs:///default/secret/1"); err != nil || string(b) != "the secret" {
		t.Errorf("%q %v", b, err)
	}
	for uri, want := range map[string]struct {
		code codes.Code
		text string
	}{
		"kbs+svid:///x509/web":              {codes.PermissionDenied, "identity-key-not-confirmed"},
		"kbs+svid:///x509/db":               {codes.PermissionDenied, "identity-not-listed"},
		"kbs+svid:///jwt/db?audience=a":     {codes.PermissionDenied, "identity-not-listed"},
		"kbs+svid:///jwt/web":               {codes.InvalidArgument, "audience"},
		"kbs+svid:///jwt/web?audience=a&x=": {codes.InvalidArgument, "audience"},
		"kbs+svid:///x509/web?audience=a":   {codes.InvalidArgument, "no query"},
		"kbs+svid:///ssh/web":               {codes.InvalidArgument, "x509/NAME"},
		"kbs+svid:///x509/WEB":              {codes.InvalidArgument, "x509/NAME"},
		"kbs+svid:///x509/web/more":         {codes.InvalidArgument, "x509/NAME"},
		"kbs+svid:///web":                   {codes.InvalidArgument, "x509/NAME"},
	} {
		if b, err := p.get(t, uri); status.Code(err) != want.code || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %q %v", uri, b, err)
		}
	}
	p = runPod(t, documentAA(t, k, func(aa *initdata.AAConfig) { aa.BindChannel = true }), openFake)
	if b, err := p.get(t, "kbs:///default/secret/1"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "channel-not-bound") {
		t.Errorf("pinned: %q %v", b, err)
	}
}

// certified is a trustee's document for a key.
func certified(t testing.TB, k *ecdsa.PrivateKey, id string) *svid.X509 {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return &svid.X509{ID: id, Chain: text, Bundle: text, Expires: tmpl.NotAfter}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Only a document for the session's own key gets that key.
func TestDocumentForTheKey(t *testing.T) {
	const id = "spiffe://prod.example.org/web"
	s := &session{identity: newKey(t)}
	give := func(change func(*svid.X509)) ([]byte, error) {
		d := certified(t, s.identity, id)
		change(d)
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return withKey(b, s)
	}
	b, err := give(func(*svid.X509) {})
	if err != nil {
		t.Fatal(err)
	}
	var d svid.X509
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(d.Key))
	if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil || !s.identity.Equal(k) || d.ID != id {
		t.Errorf("%s: %v", b, err)
	}
	for name, change := range map[string]func(*svid.X509){
		"another key":  func(d *svid.X509) { d.Chain = certified(t, newKey(t), id).Chain },
		"another name": func(d *svid.X509) { d.ID += "2" },
		"with a key":   func(d *svid.X509) { d.Key = "k" },
		"no chain":     func(d *svid.X509) { d.Chain = "" },
		"no PEM":       func(d *svid.X509) { d.Chain = "x" },
		"no certificate": func(d *svid.X509) {
			d.Chain = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
		},
		"another block": func(d *svid.X509) { d.Chain = strings.ReplaceAll(d.Chain, "CERTIFICATE", "X509 CRL") },
	} {
		if b, err := give(change); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
}

func FuzzIdentityDocument(f *testing.F) {
	s := &session{identity: newKey(f)}
	for _, k := range []*ecdsa.PrivateKey{s.identity, newKey(f)} {
		b, err := json.Marshal(certified(f, k, "spiffe://a/b"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := withKey(b, s)
		if err != nil {
			return
		}
		var d svid.X509
		if json.Unmarshal(out, &d) != nil || d.Key == "" {
			t.Fatal("taken, and the key is not there")
		}
		if _, err := tls.X509KeyPair([]byte(d.Chain), []byte(d.Key)); err != nil {
			t.Fatalf("taken, and the key is not that of the first certificate: %v", err)
		}
	})
}
