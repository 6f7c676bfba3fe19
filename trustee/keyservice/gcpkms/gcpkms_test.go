package gcpkms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/google"
)

const key = "projects/p-1/locations/europe-west3/keyRings/ring/cryptoKeys/coffer"

// fake behaves like token endpoint and key service for one account and one key.
type fake struct {
	*httptest.Server
	account *rsa.PrivateKey
	aead    cipher.AEAD
	fault   atomic.Pointer[func(http.ResponseWriter) bool]
	calls   atomic.Int64
}

func newFake(t *testing.T) *fake {
	t.Helper()
	k := make([]byte, 32)
	rand.Read(k)
	b, err := aes.NewCipher(k)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	if f.aead, err = cipher.NewGCMWithRandomNonce(b); err != nil {
		t.Fatal(err)
	}
	if f.account, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

// assertion checks a JWT of the account.
func (f *fake) assertion(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(&f.account.PublicKey, crypto.SHA256, sum[:], sig) != nil {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	now := time.Now().Unix()
	return err == nil && json.Unmarshal(b, &c) == nil && c.Iss == "coffer@p-1.example" && c.Aud == f.URL+"/token" && c.Scope == scope && c.Iat <= now+60 && c.Iat > now-600 && c.Exp > now && c.Exp-c.Iat <= 3600
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/token" {
		r.Body = io.NopCloser(bytes.NewReader(body))
		if r.ParseForm() != nil || r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || !f.assertion(r.PostForm.Get("assertion")) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"ya29.token","expires_in":3599,"token_type":"Bearer"}`)
		return
	}
	f.calls.Add(1)
	if p := f.fault.Load(); p != nil && (*p)(w) {
		return
	}
	refuse := func(status int, kind, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"status":%q}}`, status, text, kind)
	}
	if r.Header.Get("Authorization") != "Bearer ya29.token" {
		refuse(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
		return
	}
	var in struct {
		Plaintext, Ciphertext, AdditionalAuthenticatedData                   []byte
		PlaintextCrc32c, CiphertextCrc32c, AdditionalAuthenticatedDataCrc32c string
	}
	if json.Unmarshal(body, &in) != nil || in.AdditionalAuthenticatedDataCrc32c != checksum(in.AdditionalAuthenticatedData) {
		refuse(400, "INVALID_ARGUMENT", "The checksum in field additional_authenticated_data_crc32c did not match")
		return
	}
	switch r.URL.Path {
	case "/v1/" + key + ":encrypt":
		c := f.aead.Seal(nil, nil, in.Plaintext, in.AdditionalAuthenticatedData)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": key + "/cryptoKeyVersions/1", "ciphertext": c, "ciphertextCrc32c": checksum(c),
			"verifiedPlaintextCrc32c": in.PlaintextCrc32c == checksum(in.Plaintext), "verifiedAdditionalAuthenticatedDataCrc32c": true,
		})
	case "/v1/" + key + ":decrypt":
		p, err := f.aead.Open(nil, nil, in.Ciphertext, in.AdditionalAuthenticatedData)
		if err != nil {
			refuse(400, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": p, "plaintextCrc32c": checksum(p)})
	default:
		refuse(404, "NOT_FOUND", "CryptoKey not found.")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) keyFile(t *testing.T, k *rsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "coffer@p-1.example", "private_key_id": "1", "token_uri": "https://elsewhere.example/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "account.json")
	write(t, p, string(b))
	return p
}

func (f *fake) open(t *testing.T, account string) *service {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})))
	s, err := Open(t.Context(), key+"?credentials-file="+account+"&endpoint="+f.URL+"&token-endpoint="+f.URL+"/token&ca="+ca)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*service)
}

func TestWrap(t *testing.T) {
	f := newFake(t)
	s := f.open(t, f.keyFile(t, f.account))
	secret := bytes.Repeat([]byte{7}, 32)
	wrapped, err := s.Wrap(t.Context(), secret, []byte("place"))
	if err != nil || bytes.Contains(wrapped, secret) {
		t.Fatalf("%x, %v", wrapped, err)
	}
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("x")); err == nil || !strings.Contains(err.Error(), "INVALID_ARGUMENT") {
		t.Errorf("other additional data: %v", err)
	}
	if s.ID() != "gcp-kms:"+key {
		t.Error(s.ID())
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(t, f.keyFile(t, other)).Unwrap(t.Context(), wrapped, []byte("place")); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("another account's key: %v", err)
	}
	s.now = func() time.Time { return time.Now().Add(-time.Hour) }
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err == nil {
		t.Error("an old assertion")
	}
}

// TestPublishedChecksum holds checksum against the check value of CRC-32C.
func TestPublishedChecksum(t *testing.T) {
	if got := checksum([]byte("123456789")); got != fmt.Sprint(0xE3069283) {
		t.Error(got)
	}
}

func TestFaults(t *testing.T) {
	f := newFake(t)
	s := f.open(t, f.keyFile(t, f.account))
	wrapped, err := s.Wrap(t.Context(), make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status int, body string, times int64) func(http.ResponseWriter) bool {
		var n atomic.Int64
		return func(w http.ResponseWriter) bool {
			if n.Add(1) > times {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	for name, x := range map[string]struct {
		fault func(http.ResponseWriter) bool
		want  string // "": it works in the end
		calls int64
	}{
		"throttled, then well": {answer(429, `{}`, 2), "", 3},
		"down":                 {answer(503, "", 9), "503", 3},
		"denied":               {answer(403, `{"error":{"status":"PERMISSION_DENIED","message":"no"}}`, 9), "PERMISSION_DENIED", 1},
		"huge":                 {answer(200, strings.Repeat("x", 1<<20), 9), "more than", 1},
		"not its":              {answer(200, `[]`, 9), "not the service's", 1},
		"damaged":              {answer(200, `{"plaintext":"AAAA","plaintextCrc32c":"1"}`, 9), "damaged", 1},
		"nothing":              {answer(200, `{}`, 9), "no plaintext", 1},
	} {
		f.fault.Store(&x.fault)
		before := f.calls.Load()
		_, err := s.Unwrap(t.Context(), wrapped, nil)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if n := f.calls.Load() - before; n != x.calls {
			t.Errorf("%s: asked %d times, want %d", name, n, x.calls)
		}
	}
	bad := answer(200, `{"name":"projects/other","ciphertext":"AAAA"}`, 9)
	f.fault.Store(&bad)
	if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil {
		t.Error("another key's ciphertext")
	}
	hang := func(http.ResponseWriter) bool { time.Sleep(400 * time.Millisecond); return false }
	f.fault.Store(&hang)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Unwrap(ctx, wrapped, nil); err == nil {
		t.Error("a hung service")
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, spec := range []string{
		"", key, "projects/p?credentials-file=x", key + "/cryptoKeyVersions/1?credentials-file=x", key + "?credentials-file=x&token=secret", key + "?credentials-file=x&credentials-file=y",
		key + "?credentials-file=x&endpoint=http://kms", key + "?credentials-file=x&endpoint=https://kms/path", key + "?credentials-file=x&token-endpoint=ftp://x", key + "?credentials-file=x&ca=/none",
	} {
		if _, err := Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
	for what, text := range map[string]string{"nothing": "", "a user's": `{"type":"authorized_user","client_email":"x"}`, "no key": `{"type":"service_account","client_email":"x"}`, "a broken key": `{"type":"service_account","client_email":"x","private_key":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}`} {
		p := filepath.Join(t.TempDir(), "a.json")
		write(t, p, text)
		if _, err := google.Grant(p, scope, google.TokenURL, time.Now()); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	p := filepath.Join(t.TempDir(), "open.json")
	write(t, p, "{}")
	if err := os.Chmod(p, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := google.Grant(p, scope, google.TokenURL, time.Now()); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("a key file for everybody: %v", err)
	}
}
