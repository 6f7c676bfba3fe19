package rcar_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/svid"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/guest/restapi"
)

// door starts the workloads' REST server before the last guest's key holder.
func (w *world) door() (ask func(path string) (int, string)) {
	w.t.Helper()
	t := w.t
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- restapi.Run(ctx, restapi.Config{Listener: l, CDHSocket: w.cdh, Logger: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(path string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
}

// identity registers one and binds it to a document.
func (w *world) identity(name string, doc []byte, audiences ...string) {
	w.t.Helper()
	if _, err := w.ns.PutIdentity(w.t.Context(), trusteeapi.Identity{Name: name, Path: "/ns/sim/" + name, Audiences: audiences}); err != nil {
		w.t.Fatal(err)
	}
	w.bind(trusteeapi.IdentityResource(name), doc)
}

// TestIdentities: a workload gets the documents that its pod is sealed and bound to, from
// the key holder and the trustee as they are shipped, and no others.
func TestIdentities(t *testing.T) {
	w := newWorld(t)
	if _, err := w.ns.SetTrustDomain(t.Context(), "sim.example.org"); err != nil {
		t.Fatal(err)
	}
	list := func(names ...string) func(*initdata.AAConfig) {
		return func(aa *initdata.AAConfig) { aa.BindChannel, aa.Identities = true, names }
	}
	doc := w.documentWith("a", list("web", "unbound"))
	w.identity("web", doc, "https://db.example.org", "queue")
	w.identity("unlisted", doc, "queue")
	w.identity("unbound", w.document("b"), "queue")
	w.boot(doc, doc)
	ask := w.door()

	for path, want := range map[string]string{
		"x509/unlisted": "identity-not-listed", "jwt/unlisted?audience=queue": "identity-not-listed", "x509/nobody": "identity-not-listed",
		"x509/unbound": "secret-unbound", "jwt/unbound?audience=queue": "secret-unbound", "jwt/web?audience=bank": "plugin-refused",
	} {
		if code, body := ask("/coffer/identity/" + path); code != http.StatusForbidden || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s; want %s", path, code, body, want)
		}
	}

	first, second := "", ""
	for _, key := range []*string{&first, &second} {
		code, body := ask("/coffer/identity/x509/web")
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		*key = serves(t, body, "spiffe://sim.example.org/ns/sim/web")
		w.record() // the next question comes with new evidence
	}
	if first == second {
		t.Error("two attestations share a key")
	}
	if l := w.guest.String(); strings.Contains(l, "PRIVATE KEY") || strings.Count(l, "msg=attested") != 2 {
		t.Errorf("guest's log: %s", l)
	}

	code, body := ask("/coffer/identity/jwt/web?audience=https://db.example.org&audience=queue")
	var j svid.JWT
	if err := json.Unmarshal([]byte(body), &j); err != nil || code != http.StatusOK || j.ID != "spiffe://sim.example.org/ns/sim/web" {
		t.Fatalf("%d %s", code, body)
	}
	parts := strings.Split(j.Token, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"aud":["https://db.example.org","queue"]`) || !strings.Contains(string(claims), `"sub":"`+j.ID+`"`) {
		t.Errorf("%s %v", claims, err)
	}

	// Without a list there is nothing, whatever the trustee would give.
	none := w.document("none")
	w.identity("web", none, "queue")
	w.boot(none, none)
	ask = w.door()
	for _, path := range []string{"x509/web", "jwt/web?audience=queue"} {
		if code, body := ask("/coffer/identity/" + path); code != http.StatusForbidden || !strings.Contains(body, "identity-not-listed") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// serves has a server and a client meet with nothing but a document, and gives its key.
func serves(t *testing.T, document, id string) string {
	t.Helper()
	var d svid.X509
	if err := json.Unmarshal([]byte(document), &d); err != nil || d.ID != id {
		t.Fatalf("%v: %s", err, document)
	}
	pair, err := tls.X509KeyPair([]byte(d.Chain), []byte(d.Key))
	if err != nil {
		t.Fatal(err)
	}
	bundle := x509.NewCertPool()
	if !bundle.AppendCertsFromPEM([]byte(d.Bundle)) {
		t.Fatal("no bundle")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: bundle})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	client := tls.Client(b, &tls.Config{
		Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, // its name is no host's: verified below
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: bundle})
			return err
		},
	})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if u := client.ConnectionState().PeerCertificates[0].URIs; len(u) != 1 || u[0].String() != id {
		t.Errorf("it is called %v", u)
	}
	return d.Key
}

// record has the guest's state change, which the next evidence must show.
func (w *world) record() {
	w.t.Helper()
	conn, err := net.Dial("unix", w.aa)
	if err != nil {
		w.t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	r, err := aapb.NewAttestationAgentServiceClient(c).ExtendRuntimeMeasurement(w.t.Context(), &aapb.ExtendRuntimeMeasurementRequest{Domain: "example.org", Operation: "op", Content: "{}"})
	if err != nil || r.GetResult() != aapb.RuntimeMeasurementResult_OK {
		w.t.Fatal(r, err)
	}
}
