package server

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"strings"
	"testing"
)

// rcar is a client of KBS protocol 0.4.0 written from the specification alone. It
// shares no code with the server (TestClientsShareNoCode): canonical JSON, key wrap
// and JWE are its own.
type rcar struct {
	t    testing.TB
	http *http.Client
	base string // URL up to /kbs/v0
	key  *ecdh.PrivateKey
	pub  string // JWK of a key of another kind, members sorted; "": that of key

	// binding is the canonical coffer-binding of the runtime data; "": none. conn is the
	// connection of the last request.
	binding string
	conn    *tls.Conn

	nonce string
	extra json.RawMessage
	token string
}

func newRCAR(t testing.TB, caPEM, base string) *rcar {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(caPEM))
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 8}
	t.Cleanup(tr.CloseIdleConnections)
	c := &rcar{t: t, base: base + "/kbs/v0", http: &http.Client{Jar: jar, Transport: tr}}
	c.newKey()
	return c
}

func (c *rcar) newKey() {
	var err error
	if c.key, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		c.t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	body   []byte
	header http.Header
	err    struct{ Type, Detail, Reason, Claim, Record string }
}

func (c *rcar) do(method, path string, body []byte, header ...string) *answer {
	c.t.Helper()
	req, err := http.NewRequest(method, c.base+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { c.conn, _ = i.Conn.(*tls.Conn) }}))
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
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
	a := &answer{status: resp.StatusCode, body: b, header: resp.Header}
	if a.status/100 != 2 && a.status != http.StatusNotModified {
		if err := json.Unmarshal(b, &a.err); err != nil || a.err.Type == "" || a.err.Detail == "" {
			c.t.Fatalf("%s %s: answer %d is no error document: %s", method, path, a.status, b)
		}
	}
	return a
}

func (c *rcar) auth(tee, extra string) *answer {
	c.t.Helper()
	a := c.do("POST", "/auth", fmt.Appendf(nil, `{"version":"0.4.0","tee":%q,"extra-params":%s}`, tee, extra))
	if a.status != 200 {
		return a
	}
	var ch struct {
		Nonce string          `json:"nonce"`
		Extra json.RawMessage `json:"extra-params"`
	}
	if err := json.Unmarshal(a.body, &ch); err != nil {
		c.t.Fatal(err)
	}
	if raw, err := base64.StdEncoding.DecodeString(ch.Nonce); err != nil || len(raw) != 32 || len(ch.Nonce) != 44 {
		c.t.Fatalf("nonce %q is not the base64 of 32 bytes", ch.Nonce)
	}
	c.nonce, c.extra = ch.Nonce, ch.Extra
	return a
}

var rawURL = base64.RawURLEncoding

// jwk is the TEE key, members sorted as canonical JSON has them.
func (c *rcar) jwk() string {
	if c.pub != "" {
		return c.pub
	}
	p := c.key.PublicKey().Bytes()
	return fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, rawURL.EncodeToString(p[1:33]), rawURL.EncodeToString(p[33:]))
}

// runtimeData is the canonical primary runtime data.
func (c *rcar) runtimeData() string {
	if c.binding != "" {
		return fmt.Sprintf(`{"additional-evidence":"","coffer-binding":%s,"nonce":%s,"tee-pubkey":%s}`, c.binding, c.quotedNonce(), c.jwk())
	}
	return fmt.Sprintf(`{"additional-evidence":"","nonce":%s,"tee-pubkey":%s}`, c.quotedNonce(), c.jwk())
}

// quotedNonce is the nonce as a JSON string; it may be a text of its own.
func (c *rcar) quotedNonce() string {
	b, err := json.Marshal(c.nonce)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func (c *rcar) reportData() []byte {
	s := sha512.Sum384([]byte(c.runtimeData()))
	return s[:]
}

func (c *rcar) attest(evidence string, initdata []byte) *answer {
	c.t.Helper()
	doc := "null"
	if initdata != nil {
		s, _ := json.Marshal(string(initdata))
		doc = fmt.Sprintf(`{"format":"toml","body":%s}`, s)
	}
	// kid is a member that must be dropped before hashing.
	key := strings.Replace(c.jwk(), "{", `{"kid":"x",`, 1)
	var binding string
	if c.binding != "" {
		binding = `,"coffer-binding":` + c.binding
	}
	a := c.do("POST", "/attest", fmt.Appendf(nil,
		`{"init-data":%s,"runtime-data":{"nonce":%s,"tee-pubkey":%s%s},"tee-evidence":{"primary_evidence":%s,"additional_evidence":""}}`,
		doc, c.quotedNonce(), key, binding, evidence))
	if a.status == 200 {
		var tok struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(a.body, &tok); err != nil || tok.Token == "" {
			c.t.Fatalf("no token in %s", a.body)
		}
		c.token = tok.Token
	}
	return a
}

// fake makes evidence of the fake TEE for this session.
func (c *rcar) fake(initdata []byte, mutate ...func(*fakeEvidence)) string {
	sum := sha256.Sum256(initdata)
	e := &fakeEvidence{ReportData: hex.EncodeToString(c.reportData()), Initdata: hex.EncodeToString(sum[:]), Hardware: 2}
	for _, m := range mutate {
		m(e)
	}
	e.sign()
	b, _ := json.Marshal(e)
	return string(b)
}

// handshake attests with the fake TEE, genuinely.
func (c *rcar) handshake(initdata []byte, mutate ...func(*fakeEvidence)) {
	c.t.Helper()
	if a := c.auth(fakeTEE, `{"supported-hash-algorithms":["sha256","sha384","sha512"]}`); a.status != 200 {
		c.t.Fatalf("auth: %d %s", a.status, a.body)
	}
	if string(c.extra) != `""` {
		c.t.Fatalf("extra-params %s, want the empty string", c.extra)
	}
	if a := c.attest(c.fake(initdata, mutate...), initdata); a.status != 200 {
		c.t.Fatalf("attest: %d %s", a.status, a.body)
	}
}

func (c *rcar) get(name string, header ...string) *answer {
	c.t.Helper()
	return c.do("GET", "/resource/"+name, nil, header...)
}

func (c *rcar) bearer(name string) *answer {
	c.t.Helper()
	return c.get(name, "Authorization", "Bearer "+c.token)
}

// open decrypts a resource. Like deployed clients it builds the additional data
// from the parsed header, in the published member order.
func (c *rcar) open(jwe []byte) []byte {
	c.t.Helper()
	var j map[string]string
	if err := json.Unmarshal(jwe, &j); err != nil {
		c.t.Fatalf("resource %s: %v", jwe, err)
	}
	raw := func(name string) []byte {
		b, err := rawURL.DecodeString(j[name])
		if err != nil {
			c.t.Fatal(err)
		}
		return b
	}
	var h struct {
		Alg, Enc string
		Epk      struct{ Crv, Kty, X, Y string }
	}
	if err := json.Unmarshal(raw("protected"), &h); err != nil {
		c.t.Fatal(err)
	}
	again := fmt.Sprintf(`{"alg":"%s","enc":"%s","epk":{"crv":"%s","kty":"%s","x":"%s","y":"%s"}}`, h.Alg, h.Enc, h.Epk.Crv, h.Epk.Kty, h.Epk.X, h.Epk.Y)
	x, _ := rawURL.DecodeString(h.Epk.X)
	y, _ := rawURL.DecodeString(h.Epk.Y)
	epk, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		c.t.Fatal(err)
	}
	z, err := c.key.ECDH(epk)
	if err != nil {
		c.t.Fatal(err)
	}
	cek := unwrap(c.t, kdf(z), raw("encrypted_key"))
	block, err := aes.NewCipher(cek)
	if err != nil {
		c.t.Fatal(err)
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		c.t.Fatal(err)
	}
	plain, err := g.Open(nil, raw("iv"), append(raw("ciphertext"), raw("tag")...), []byte(rawURL.EncodeToString([]byte(again))))
	if err != nil {
		c.t.Fatal(err)
	}
	return plain
}

// kdf is RFC 7518 section 4.6.2 for ECDH-ES+A256KW.
func kdf(z []byte) []byte {
	var b bytes.Buffer
	put := func(n uint32) { binary.Write(&b, binary.BigEndian, n) }
	put(1)
	b.Write(z)
	put(14)
	b.WriteString("ECDH-ES+A256KW")
	put(0)
	put(0)
	put(256)
	s := sha256.Sum256(b.Bytes())
	return s[:]
}

// unwrap is RFC 3394 section 2.2.2.
func unwrap(t testing.TB, kek, in []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	n := len(in)/8 - 1
	a, r := append([]byte{}, in[:8]...), append([]byte{}, in[8:]...)
	buf := make([]byte, 16)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(buf, binary.BigEndian.Uint64(a)^uint64(n*j+i))
			copy(buf[8:], r[8*(i-1):8*i])
			block.Decrypt(buf, buf)
			copy(a, buf[:8])
			copy(r[8*(i-1):], buf[8:])
		}
	}
	if !bytes.Equal(a, bytes.Repeat([]byte{0xa6}, 8)) {
		t.Fatal("key unwrap failed: the response is not for this TEE key")
	}
	return r
}

// namespace is the one of the client's base path.
func (c *rcar) namespace() string {
	_, ns, ok := strings.Cut(strings.TrimSuffix(c.base, "/kbs/v0"), "/ns/")
	if !ok {
		return "default"
	}
	return ns
}
