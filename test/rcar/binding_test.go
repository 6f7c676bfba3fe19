package rcar_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
)

func bound(aa *initdata.AAConfig) { aa.BindChannel = true }

// middle ends the guest's TLS in front of the trustee, under a CA that the guest takes.
type middle struct{ url, ca string }

func (m *middle) name(aa *initdata.AAConfig) {
	aa.BindChannel = true
	aa.TokenConfigs.KBS.URL, aa.TokenConfigs.KBS.Cert = m.url+"/ns/"+namespace, m.ca
}

// newMiddle starts one that rewrites what the guest sends, and speaks at most a version of
// TLS with it.
func newMiddle(t *testing.T, w *world, version uint16, rewrite func([]byte) []byte) *middle {
	t.Helper()
	to, err := url.Parse(w.cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(w.cfg.CAPEM)) {
		t.Fatal("no CA")
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			b, err := io.ReadAll(r.In.Body)
			if err != nil {
				t.Error(err)
			}
			b = rewrite(b)
			r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	s := httptest.NewUnstartedServer(proxy)
	s.TLS = &tls.Config{MaxVersion: version}
	s.StartTLS()
	t.Cleanup(s.Close)
	return &middle{s.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))}
}

func (w *world) demandChannel(required bool) {
	w.t.Helper()
	if _, err := w.ns.SetChannelBinding(w.t.Context(), required); err != nil {
		w.t.Fatal(err)
	}
}

// TestChannelBinding: a guest whose initdata pins it covers its connection, also where the
// namespace demands that; one without the pin is refused there, and the pinned one refuses
// whatever stands between.
func TestChannelBinding(t *testing.T) {
	w := newWorld(t)
	same := func(b []byte) []byte { return b }
	through := map[string]struct {
		doc    []byte
		demand bool
		reason string // "": the secret comes
	}{
		"pinned, not demanded": {w.documentWith("a", bound), false, ""},
		"pinned and demanded":  {w.documentWith("b", bound), true, ""},
		"demanded, not pinned": {w.document("c"), true, "channel-binding-demanded"},
		"forwarded":            {w.documentWith("d", newMiddle(t, w, tls.VersionTLS13, same).name), false, "verifier-mismatch"},
		"TLS 1.2":              {w.documentWith("e", newMiddle(t, w, tls.VersionTLS12, same).name), false, "channel-not-bound"},
		"forwarded, the verifier's name taken out": {w.documentWith("h", newMiddle(t, w, tls.VersionTLS13, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`["tls-exporter","verifier-key"]`), []byte(`["tls-exporter"]`), 1)
		}).name), false, "channel-mismatch"},
		"offer taken out": {w.documentWith("f", newMiddle(t, w, tls.VersionTLS13, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"coffer-binding":["tls-exporter","verifier-key"]`), []byte(`"x":[]`), 1)
		}).name), false, "channel-not-bound"},
		"confirmation not asked for": {w.documentWith("g", func(aa *initdata.AAConfig) {
			newMiddle(t, w, tls.VersionTLS13, func(b []byte) []byte {
				return bytes.Replace(b, []byte(`"extra-params":{`), []byte(`"extra-params":{"coffer-binding":["tls-exporter"],`), 1)
			}).name(aa)
			aa.BindChannel = false
		}), false, "kbs-protocol"},
	}
	for name, c := range through {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.demandChannel(c.demand)
			w.secret("default/secret/1", "the secret", c.doc)
			v, err := get(t, w.boot(c.doc, c.doc), "kbs:///default/secret/1")
			switch {
			case c.reason == "" && (err != nil || v != "the secret"):
				t.Errorf("%q, %v", v, err)
			case c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason)):
				t.Errorf("%q, %v; want %s", v, err, c.reason)
			}
		})
	}
}
