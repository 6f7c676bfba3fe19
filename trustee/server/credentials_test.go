package server

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// whoami asks over a connection with client certificates.
func (w *world) whoami(certs ...tls.Certificate) (int, *trusteeapi.Caller) {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.s.keys.CAPEM)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(w.s.URL() + trusteeapi.PathPrefix + "/whoami")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	c := new(trusteeapi.Caller)
	if resp.StatusCode == 200 {
		if err := json.Unmarshal(b, c); err != nil {
			w.t.Fatal(err)
		}
	}
	return resp.StatusCode, c
}

func (a *adminClient) addCredential(c trusteeapi.Credential) *trusteeapi.Credential {
	a.t.Helper()
	out := new(trusteeapi.Credential)
	if err := json.Unmarshal(a.must("POST", "/credentials", c), out); err != nil {
		a.t.Fatal(err)
	}
	return out
}

// TestClientCertificates: names count if an authority of administrators has issued
// the certificate, keys if they are registered, and both end when they are taken back.
func TestClientCertificates(t *testing.T) {
	admins, strangers := newAuthority(t, "admins"), newAuthority(t, "strangers")
	w := newWorld(t, func(c *Config) { c.AdminClientCA = admins.file })
	for _, ns := range []string{"a", "b"} {
		w.admin.must("POST", "/namespaces", trusteeapi.Namespace{Name: ns})
	}
	ci := func(of *authority, use x509.ExtKeyUsage, change ...func(*x509.Certificate)) tls.Certificate {
		tmpl := &x509.Certificate{
			Subject: pkix.Name{CommonName: "ci"}, DNSNames: []string{"ci.example.org"}, EmailAddresses: []string{"ci@example.org"},
			URIs: []*url.URL{mustURL(t, "spiffe://example.org/ci")}, ExtKeyUsage: []x509.ExtKeyUsage{use},
		}
		for _, c := range change {
			c(tmpl)
		}
		return of.sign(tmpl)
	}
	good := ci(admins, x509.ExtKeyUsageClientAuth)
	if status, _ := w.whoami(good); status != 401 {
		t.Errorf("a name that nobody registered: %d", status)
	}
	var ids []string
	for i, subject := range []string{"uri:spiffe://example.org/ci", "dns:ci.example.org", "email:ci@example.org", "cn:ci"} {
		c := w.admin.addCredential(trusteeapi.Credential{Kind: trusteeapi.CredentialCertificate, Subject: subject, Grants: []trusteeapi.Grant{grant(trusteeapi.RoleReader, []string{"a", "b"}[i%2])}})
		ids = append(ids, c.ID)
		status, who := w.whoami(good)
		if status != 200 || len(who.Grants) != len(ids) || !strings.Contains(who.Actor, subject) {
			t.Errorf("%s: %d %+v", subject, status, who)
		}
	}
	for name, cert := range map[string][]tls.Certificate{
		"none":         nil,
		"a stranger's": {ci(strangers, x509.ExtKeyUsageClientAuth)},
		"a server's":   {ci(admins, x509.ExtKeyUsageServerAuth)},
		"expired":      {ci(admins, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })},
		"another name": {ci(admins, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames, c.EmailAddresses, c.URIs = "ci2", nil, nil, nil
		})},
		"a name in another way": {ci(admins, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames, c.EmailAddresses, c.URIs = "dns:ci.example.org", []string{"ci"}, nil, nil
		})},
	} {
		if status, who := w.whoami(cert...); status != 401 {
			t.Errorf("%s: %d %+v", name, status, who)
		}
	}
	for _, id := range ids {
		if status, b := w.admin.do("DELETE", "/credentials/"+id, nil); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	if status, _ := w.whoami(good); status != 401 {
		t.Errorf("taken back: %d", status)
	}

	// A key counts whoever has issued the certificate: the handshake shows that the
	// peer has it.
	own := ci(strangers, x509.ExtKeyUsageClientAuth)
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := w.admin.addCredential(trusteeapi.Credential{
		Kind: trusteeapi.CredentialKey, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), Grants: []trusteeapi.Grant{grant(trusteeapi.RoleOwner, "a")},
		Expires: w.clock.now().Add(time.Hour),
	})
	if status, who := w.whoami(own); status != 200 || len(who.Grants) != 1 || who.Grants[0].Role != trusteeapi.RoleOwner || who.Actor != "cert:"+key.ID {
		t.Errorf("a registered key: %d %+v", status, who)
	}
	if status, who := w.whoami(ci(strangers, x509.ExtKeyUsageClientAuth)); status != 401 {
		t.Errorf("another key of the same issuer and name: %d %+v", status, who)
	}
}

// TestCredentialsEnd: with their time, and when they are taken back.
func TestCredentialsEnd(t *testing.T) {
	w := newWorld(t)
	whoami := func(c *trusteeapi.Credential) int {
		status, _ := w.admin.as(c, "GET", trusteeapi.PathPrefix+"/whoami", nil)
		return status
	}
	short := w.admin.addCredential(trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: []trusteeapi.Grant{grant(trusteeapi.RoleReader, "default")}, Expires: w.clock.now().Add(time.Hour)})
	long := w.admin.credential(grant(trusteeapi.RoleReader, "default"))
	if whoami(short) != 200 || whoami(long) != 200 {
		t.Fatal("fresh tokens do not count")
	}
	if _, b := w.admin.do("GET", "/credentials", nil); strings.Contains(string(b), short.Token) || strings.Contains(string(b), `"token":`+`"`) {
		t.Errorf("tokens are listed: %s", b)
	}
	w.clock.advance(61 * time.Minute)
	if a, b := whoami(short), whoami(long); a != 401 || b != 200 {
		t.Errorf("after an hour: %d, %d", a, b)
	}
	if status, b := w.admin.do("DELETE", "/credentials/"+long.ID, nil); status != 204 {
		t.Fatalf("%d %s", status, b)
	}
	if s := whoami(long); s != 401 {
		t.Errorf("taken back: %d", s)
	}
	// What has expired long ago is swept.
	w.clock.advance(31 * 24 * time.Hour)
	if n, err := w.s.credentials.Sweep(t.Context()); err != nil || n != 1 {
		t.Errorf("swept %d, %v", n, err)
	}
	// A token of this trustee's bearer key that it does not know (a backup from before
	// it was issued, say) counts for nothing.
	w.clock.advance(-31*24*time.Hour - 61*time.Minute)
	if s := whoami(short); s != 401 {
		t.Errorf("a token of a credential that is gone: %d", s)
	}
}
