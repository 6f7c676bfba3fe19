// Package fakekbs is a Key Broker Service with behaviour, for tests of clients:
// it verifies evidence with the real verifier if it has one, issues signed
// tokens and seals resources.
//
// Trust zone: tests only.
package fakekbs

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
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
)

// KBS is a running KBS, namespace "sim". Its exported fields may be changed
// before the first request, and then inside Set.
type KBS struct {
	URL                  string             // base URL, with the namespace
	Verifier             *verifier.Verifier // nil: takes any evidence
	Resources            map[string][]byte
	Down                 bool      // answers 503
	Lacking              int       // attestations to refuse as if collateral were on its way
	Revoked              bool      // takes no token issued so far
	TakesNone            bool      // takes no token at all
	IssuedAt             time.Time // iat of tokens
	SignerURI            string    // URI name of the token signer's certificate; "": none
	FirstAuth, LastToken time.Time

	t   testing.TB
	ca  *x509.Certificate
	key *ecdsa.PrivateKey // of the CA, which also signs tokens

	mu       sync.Mutex
	auths    int
	attests  int
	gets     int
	sessions map[string]kbs.Request
	nonces   map[string]string
	tokens   map[string]*kbs.TEEKey
}

// tokenLife is how long tokens are valid.
const tokenLife = 5 * time.Minute

// Start runs a KBS on loopback whose certificates are valid from..to and name
// 127.0.0.1 and 10.0.2.2, as which a VM's user-mode network sees it.
func Start(t testing.TB, ver *verifier.Verifier, from, to time.Time) *KBS {
	t.Helper()
	f := &KBS{
		t: t, Verifier: ver, Resources: map[string][]byte{}, IssuedAt: from.Add(time.Hour), SignerURI: ear.SignerURI,
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
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 2, 2)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: from, NotAfter: to,
	}, f.ca)
	srv := httptest.NewUnstartedServer(f)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: f.key}}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	f.URL = srv.URL + "/ns/sim"
	return f
}

func (f *KBS) issue(tmpl, parent *x509.Certificate) *x509.Certificate {
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

// CAPEM gives the CA's certificate.
func (f *KBS) CAPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Raw}))
}

// ServeHTTP implements http.Handler.
func (f *KBS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Down {
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
	case path == "/attest" && f.Lacking > 0:
		f.Lacking--
		w.Header().Set("Retry-After", "1")
		f.refuse(w, http.StatusForbidden, "collateral-missing", "something is fetched")
	case path == "/attest":
		f.attest(w, r, body)
	default:
		f.get(w, r, strings.TrimPrefix(path, "/resource/"))
	}
}

func (f *KBS) refuse(w http.ResponseWriter, code int, reason denial.Reason, detail string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(kbs.ErrorInfo{Type: "https://example.invalid/errors/X", Detail: detail, Reason: string(reason), Claim: "the claim", Record: "record-7"})
}

func (f *KBS) auth(w http.ResponseWriter, body []byte) {
	f.auths++
	if f.FirstAuth.IsZero() {
		f.FirstAuth = time.Now()
	}
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
	if f.Verifier != nil {
		tpmCh, err := f.Verifier.Challenge(extra.TPM, nonce)
		if err != nil {
			f.refuse(w, 401, "", err.Error())
			return
		}
		ch.ExtraParams, _ = json.Marshal(kbs.ChallengeExtra{TPM: tpmCh, SelectedHashAlgorithm: "SHA256"})
	}
	http.SetCookie(w, &http.Cookie{Name: kbs.SessionCookie, Value: id, Path: "/"})
	_ = json.NewEncoder(w).Encode(ch)
}

func (f *KBS) attest(w http.ResponseWriter, r *http.Request, body []byte) {
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
	if f.Verifier != nil {
		hash, _ := kbs.RuntimeDataHash(kbs.HashSHA256, nonce, key, a.TEEEvidence.Additional)
		extra, _ := req.Extra()
		in := verifier.Input{Evidence: a.TEEEvidence.Primary, Request: extra.TPM, Nonce: nonce, RuntimeDataHash: hash, Now: time.Now()}
		if a.InitData != nil {
			in.Initdata = []byte(a.InitData.Body)
		}
		if _, err := f.Verifier.Verify(in); err != nil {
			d, ok := denial.As(err)
			if !ok {
				d = &denial.Denial{}
			}
			f.t.Logf("evidence refused: %v", err)
			f.refuse(w, 401, d.Reason, "evidence refused")
			return
		}
	}
	tok := f.token()
	f.tokens[tok] = key
	f.LastToken = time.Now()
	_ = json.NewEncoder(w).Encode(kbs.TokenResponse{Token: tok})
}

// token is signed with the CA's key, under a certificate of its own that goes
// along.
func (f *KBS) token() string {
	signer := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "trustee tokens"},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: f.ca.NotBefore, NotAfter: f.ca.NotAfter,
	}
	if f.SignerURI != "" {
		u, err := url.Parse(f.SignerURI)
		if err != nil {
			f.t.Fatal(err)
		}
		signer.URIs = []*url.URL{u}
	}
	b64 := base64.RawURLEncoding.EncodeToString
	nonce := make([]byte, 8)
	rand.Read(nonce)
	header, _ := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "jwk": map[string]any{"kty": "EC", "x5c": []string{base64.StdEncoding.EncodeToString(f.issue(signer, f.ca).Raw)}}})
	claims, _ := json.Marshal(map[string]any{"iat": f.IssuedAt.Unix(), "exp": f.IssuedAt.Add(tokenLife).Unix(), "jti": b64(nonce)})
	in := b64(header) + "." + b64(claims)
	d := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, f.key, d[:])
	if err != nil {
		f.t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return in + "." + b64(sig)
}

func (f *KBS) get(w http.ResponseWriter, r *http.Request, name string) {
	f.gets++
	key := f.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if key == nil || f.Revoked || f.TakesNone {
		f.Revoked = false
		f.tokens = map[string]*kbs.TEEKey{}
		f.refuse(w, 401, "", "Attestation Token not found")
		return
	}
	v, ok := f.Resources[name]
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

// Count gives how many requests of each kind there were.
func (f *KBS) Count() (auths, attests, gets int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.auths, f.attests, f.gets
}

// Set changes fields while the KBS runs.
func (f *KBS) Set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
