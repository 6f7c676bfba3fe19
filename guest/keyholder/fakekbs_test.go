package keyholder

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
)

// fakeKBS is a KBS with behaviour: it verifies evidence with the real verifier,
// issues signed tokens and seals resources. Its fields may be changed under mu.
type fakeKBS struct {
	t   testing.TB
	srv *httptest.Server
	ca  *x509.Certificate
	key *ecdsa.PrivateKey // of the CA, which also signs tokens
	ver *verifier.Verifier

	mu        sync.Mutex
	resources map[string][]byte
	auths     int
	attests   int
	gets      int
	down      bool          // answers 503
	revoked   bool          // takes no token issued so far
	takesNone bool          // takes no token at all
	lifetime  time.Duration // of tokens
	iat       time.Time
	sessions  map[string]kbs.Request
	nonces    map[string]string
	tokens    map[string]*kbs.TEEKey
}

// startKBS runs a KBS whose certificates are valid from..to.
func startKBS(t testing.TB, ver *verifier.Verifier, from, to time.Time) *fakeKBS {
	t.Helper()
	f := &fakeKBS{
		t: t, ver: ver, resources: map[string][]byte{}, lifetime: 5 * time.Minute, iat: from.Add(time.Hour),
		sessions: map[string]kbs.Request{}, nonces: map[string]string{}, tokens: map[string]*kbs.TEEKey{},
	}
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "trustee CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, NotBefore: from, NotAfter: to,
	}
	f.ca = f.issue(ca, ca)
	leaf := f.issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: from, NotAfter: to,
	}, f.ca)
	f.srv = httptest.NewUnstartedServer(f)
	f.srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: f.key}}}
	f.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.srv.StartTLS()
	t.Cleanup(f.srv.Close)
	return f
}

func (f *fakeKBS) issue(tmpl, parent *x509.Certificate) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, f.key.Public(), f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fakeKBS) caPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Raw}))
}

func (f *fakeKBS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, `{"type":"x","detail":"busy"}`, http.StatusServiceUnavailable)
		return
	}
	body, _ := io.ReadAll(r.Body)
	path, ok := strings.CutPrefix(r.URL.Path, "/ns/sim"+kbs.PathPrefix)
	switch {
	case !ok:
		f.refuse(w, http.StatusNotFound, "", "no such path")
	case path == "/auth":
		f.auth(w, body)
	case path == "/attest":
		f.attest(w, r, body)
	default:
		f.get(w, r, strings.TrimPrefix(path, "/resource/"))
	}
}

func (f *fakeKBS) refuse(w http.ResponseWriter, code int, reason denial.Reason, detail string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(kbs.ErrorInfo{Type: "https://example.invalid/errors/X", Detail: detail, Reason: string(reason), Claim: "the claim", Record: "record-7"})
}

func (f *fakeKBS) auth(w http.ResponseWriter, body []byte) {
	f.auths++
	req, err := kbs.DecodeRequest(body)
	if err != nil || req.Version != kbs.ProtocolVersion {
		f.refuse(w, 400, "", "bad request")
		return
	}
	n := make([]byte, 32)
	rand.Read(n)
	id, nonce := fmt.Sprintf("%x", n[:16]), base64.StdEncoding.EncodeToString(n)
	f.sessions[id], f.nonces[id] = *req, nonce
	extra, err := req.Extra()
	if err != nil {
		f.refuse(w, 400, "", err.Error())
		return
	}
	ch := kbs.Challenge{Nonce: nonce, ExtraParams: json.RawMessage(`""`)}
	if f.ver != nil {
		tpmCh, err := f.ver.Challenge(extra.TPM, nonce)
		if err != nil {
			f.refuse(w, 401, "", err.Error())
			return
		}
		ch.ExtraParams, _ = json.Marshal(kbs.ChallengeExtra{TPM: tpmCh, SelectedHashAlgorithm: "SHA256"})
	}
	http.SetCookie(w, &http.Cookie{Name: kbs.SessionCookie, Value: id, Path: "/"})
	_ = json.NewEncoder(w).Encode(ch)
}

func (f *fakeKBS) attest(w http.ResponseWriter, r *http.Request, body []byte) {
	f.attests++
	ck, err := r.Cookie(kbs.SessionCookie)
	if err != nil {
		f.refuse(w, 401, "", "no cookie")
		return
	}
	req, nonce := f.sessions[ck.Value], f.nonces[ck.Value]
	a, err := kbs.DecodeAttestation(body)
	if err != nil || a.RuntimeData.Nonce != nonce {
		f.refuse(w, 401, "", "bad attestation")
		return
	}
	key, err := kbs.ParseTEEKey(a.RuntimeData.TEEPubKey)
	if err != nil {
		f.refuse(w, 401, "", err.Error())
		return
	}
	if f.ver != nil {
		hash, _ := kbs.RuntimeDataHash(kbs.HashSHA256, nonce, key, a.TEEEvidence.Additional)
		extra, _ := req.Extra()
		in := verifier.Input{Evidence: a.TEEEvidence.Primary, Request: extra.TPM, Nonce: nonce, RuntimeDataHash: hash, Now: time.Now()}
		if a.InitData != nil {
			in.Initdata = []byte(a.InitData.Body)
		}
		if _, err := f.ver.Verify(in); err != nil {
			d, _ := denial.As(err)
			f.refuse(w, 401, d.Reason, "evidence refused")
			return
		}
	}
	tok := f.token()
	f.tokens[tok] = key
	_ = json.NewEncoder(w).Encode(kbs.TokenResponse{Token: tok})
}

// token is signed by the CA itself; its certificate goes along.
func (f *fakeKBS) token() string {
	b64 := base64.RawURLEncoding.EncodeToString
	nonce := make([]byte, 8)
	rand.Read(nonce)
	header, _ := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "jwk": map[string]any{"kty": "EC", "x5c": []string{base64.StdEncoding.EncodeToString(f.ca.Raw)}}})
	claims, _ := json.Marshal(map[string]any{"iat": f.iat.Unix(), "exp": f.iat.Add(f.lifetime).Unix(), "jti": b64(nonce)})
	in := b64(header) + "." + b64(claims)
	d := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, f.key, d[:])
	if err != nil {
		f.t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return in + "." + b64(sig)
}

func (f *fakeKBS) get(w http.ResponseWriter, r *http.Request, name string) {
	f.gets++
	key := f.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if key == nil || f.revoked || f.takesNone {
		f.revoked = false
		f.tokens = map[string]*kbs.TEEKey{}
		f.refuse(w, 401, "", "Attestation Token not found")
		return
	}
	v, ok := f.resources[name]
	switch {
	case name == "default/secret/denied":
		f.refuse(w, 403, "resource-not-bound", "Access denied by policy")
	case !ok:
		f.refuse(w, 404, "", "no such resource")
	default:
		b, err := kbs.Seal(key, v)
		if err != nil {
			f.t.Error(err)
		}
		_, _ = w.Write(b)
	}
}

func (f *fakeKBS) count() (auths, attests, gets int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.auths, f.attests, f.gets
}

func (f *fakeKBS) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
