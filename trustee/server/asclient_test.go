package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wireClient is a client of the Attestation Service and of the reference values'
// service, written from the specification alone: it puts field numbers on the wire
// and frames gRPC itself, and shares no code with the server (TestClientsShareNoCode).
type wireClient struct {
	t    testing.TB
	url  string
	http *http.Client
}

// newWireClient speaks HTTP/2 without TLS where conf is nil.
func newWireClient(t testing.TB, url string, conf *tls.Config) *wireClient {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: conf}
	if conf == nil {
		tr.Protocols.SetUnencryptedHTTP2(true)
	} else {
		tr.Protocols.SetHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &wireClient{t, url, &http.Client{Transport: tr}}
}

// field is one field of a message: a number, and a string or nested fields.
type field struct {
	n int
	v any // string, message, or map[string]string
}

type message []field

func (m message) encode() []byte {
	var b []byte
	for _, f := range m {
		switch v := f.v.(type) {
		case string:
			b = appendField(b, f.n, v)
		case message:
			b = appendField(b, f.n, string(v.encode()))
		case map[string]string:
			for k, e := range v {
				b = append(b, message{{f.n, message{{1, k}, {2, e}}}}.encode()...)
			}
		}
	}
	return b
}

// lengthDelimited is the wire type of strings and nested messages.
const lengthDelimited = 2

func appendField(b []byte, n int, v string) []byte {
	b = binary.AppendUvarint(b, uint64(n)<<3|lengthDelimited)
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// call makes one unary call and gives the string in field 1 of the answer (and
// whether it is there), the gRPC status and its text.
func (c *wireClient) call(method string, m message) (out string, present bool, status int, text string) {
	c.t.Helper()
	body := m.encode()
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	req, err := http.NewRequest("POST", c.url+method, bytes.NewReader(frame))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	} else {
		text = resp.Trailer.Get("Grpc-Message")
	}
	if status, err = strconv.Atoi(code); err != nil {
		c.t.Fatalf("%s: HTTP %d without a gRPC status: %s", method, resp.StatusCode, raw)
	}
	if len(raw) < 5 {
		return "", false, status, text
	}
	for raw = raw[5:]; len(raw) > 0; {
		tag, k := binary.Uvarint(raw)
		if k <= 0 || tag != 1<<3|lengthDelimited {
			c.t.Fatalf("%s: answer has field %d of type %d", method, tag>>3, tag&7)
		}
		size, l := binary.Uvarint(raw[k:])
		if raw = raw[k+max(l, 0):]; l <= 0 || size > uint64(len(raw)) {
			c.t.Fatalf("%s: answer is cut", method)
		}
		out, present, raw = string(raw[:size]), true, raw[size:]
	}
	return out, present, status, text
}

const (
	evaluateMethod  = "/attestation.AttestationService/AttestationEvaluate"
	setPolicyMethod = "/attestation.AttestationService/SetAttestationPolicy"
	challengeMethod = "/attestation.AttestationService/GetAttestationChallenge"
	queryMethod     = "/reference.ReferenceValueProviderService/QueryReferenceValue"
	registerMethod  = "/reference.ReferenceValueProviderService/RegisterReferenceValue"
)

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// rest sends a document by REST.
func (c *wireClient) rest(method, path, body string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// verified checks a token with the service's published key set, by hand, and gives
// the payload.
func (c *wireClient) verified(token string) map[string]any {
	c.t.Helper()
	status, doc := c.rest("GET", "/.well-known/jwks.json", "")
	var set struct {
		Keys []struct{ Kty, Crv, Alg, X, Y string }
	}
	if err := json.Unmarshal([]byte(doc), &set); err != nil || status != 200 || len(set.Keys) != 1 || set.Keys[0].Alg != "ES256" {
		c.t.Fatalf("key set: %d %s", status, doc)
	}
	part := strings.Split(token, ".")
	if len(part) != 3 {
		c.t.Fatalf("token %q", token)
	}
	raw := func(s string) []byte {
		b, err := rawURL.DecodeString(s)
		if err != nil {
			c.t.Fatal(err)
		}
		return b
	}
	point := append([]byte{4}, append(raw(set.Keys[0].X), raw(set.Keys[0].Y)...)...)
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		c.t.Fatal(err)
	}
	sum, sig := sha256.Sum256([]byte(part[0]+"."+part[1])), raw(part[2])
	if len(sig) != 64 || !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		c.t.Fatal("the token's signature is not by the published key")
	}
	var payload map[string]any
	if err := json.Unmarshal(raw(part[1]), &payload); err != nil {
		c.t.Fatal(err)
	}
	return payload
}

// authority issues callers' certificates.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, file: filepath.Join(t.TempDir(), name+".pem")}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate for one use.
func (a *authority) issue(use x509.ExtKeyUsage) tls.Certificate {
	a.t.Helper()
	return a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{use}})
}

// issueFor makes a server's certificate.
func (a *authority) issueFor(t testing.TB, ip string) tls.Certificate {
	t.Helper()
	return a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.ParseIP(ip)}})
}

func (a *authority) sign(c *x509.Certificate) tls.Certificate {
	a.t.Helper()
	c.SerialNumber, c.NotBefore = big.NewInt(2), time.Now().Add(-time.Hour)
	if c.Subject.CommonName == "" {
		c.Subject = pkix.Name{CommonName: "leaf"}
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	c.BasicConstraintsValid, c.KeyUsage = true, x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
