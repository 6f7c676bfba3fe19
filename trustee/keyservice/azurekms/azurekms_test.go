package azurekms

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	tenant = "11111111-2222-3333-4444-555555555555"
	client = "99999999-8888-7777-6666-555555555555"
	path   = "/keys/coffer/0123456789abcdef0123456789abcdef"
)

// vault behaves like a vault with one key, and like the tenant's authority.
type vault struct {
	*httptest.Server
	key    *rsa.PrivateKey
	secret string
	token  string
	fail   atomic.Int64 // status
	yes    atomic.Bool  // verify says yes to all
}

func start(t *testing.T) *vault {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{key: k, secret: rand.Text(), token: rand.Text()}
	v.Server = httptest.NewTLSServer(http.HandlerFunc(v.serve))
	t.Cleanup(v.Close)
	return v
}

func (v *vault) serve(w http.ResponseWriter, r *http.Request) {
	give := func(status int, doc map[string]any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(doc)
	}
	refuse := func(status int, code string) {
		give(status, map[string]any{"error": map[string]any{"code": code, "message": "about " + code}})
	}
	if s := v.fail.Load(); s != 0 {
		refuse(int(s), "Failed")
		return
	}
	if r.URL.Path == "/"+tenant+"/oauth2/v2.0/token" {
		if r.FormValue("client_id") != client || r.FormValue("client_secret") != v.secret {
			give(401, map[string]any{"error": "invalid_client"})
			return
		}
		give(200, map[string]any{"access_token": v.token, "token_type": "Bearer", "expires_in": 3599})
		return
	}
	op, ok := strings.CutPrefix(r.URL.Path, path+"/")
	if !ok || r.Header.Get("Authorization") != "Bearer "+v.token || r.URL.Query().Get("api-version") != "7.4" {
		refuse(401, "Unauthorized")
		return
	}
	var in struct{ Alg, Value, Digest string }
	err := json.NewDecoder(r.Body).Decode(&in)
	enc := base64.RawURLEncoding
	value, verr := enc.DecodeString(in.Value)
	digest, derr := enc.DecodeString(in.Digest)
	if err != nil || verr != nil || derr != nil {
		refuse(400, "BadParameter")
		return
	}
	var out []byte
	pss := &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}
	switch op + " " + in.Alg {
	case "wrapkey RSA-OAEP-256":
		out, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &v.key.PublicKey, value, nil)
	case "unwrapkey RSA-OAEP-256":
		out, err = rsa.DecryptOAEP(sha256.New(), nil, v.key, value, nil)
	case "sign PS256":
		out, err = rsa.SignPSS(rand.Reader, v.key, crypto.SHA256, value, pss)
	case "verify PS256":
		good := len(digest) == 32 && rsa.VerifyPSS(&v.key.PublicKey, crypto.SHA256, digest, value, pss) == nil
		give(200, map[string]any{"value": good || v.yes.Load()})
		return
	default:
		refuse(400, "BadParameter")
		return
	}
	if err != nil {
		refuse(400, "BadParameter")
		return
	}
	give(200, map[string]any{"kid": v.URL + path, "value": enc.EncodeToString(out)})
}

func file(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (v *vault) open(t *testing.T, secret string) *service {
	t.Helper()
	ca := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw})))
	s, err := Open(t.Context(), v.URL+path+"?tenant-id="+tenant+"&client-id="+client+"&client-secret-file="+file(t, secret)+"&login-endpoint="+v.URL+"&ca="+ca)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*service)
}

func TestWrap(t *testing.T) {
	v := start(t)
	s := v.open(t, v.secret)
	key, aad := bytes.Repeat([]byte{7}, 32), []byte("place")
	b, err := s.Wrap(t.Context(), key, aad)
	if err != nil || bytes.Contains(b, key) {
		t.Fatalf("%x, %v", b, err)
	}
	if got, err := s.Unwrap(t.Context(), b, aad); err != nil || !bytes.Equal(got, key) {
		t.Fatalf("%x, %v", got, err)
	}
	if s.ID() != "azure-kms:"+v.URL+path {
		t.Error(s.ID())
	}
	if _, err := s.Unwrap(t.Context(), b, []byte("another")); err == nil {
		t.Error("other additional data")
	}
	if _, err := start(t).open(t, v.secret).Unwrap(t.Context(), b, aad); err == nil {
		t.Error("another vault")
	}
	w, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(w *wrapped){
		"key": func(w *wrapped) { w.Key[3] ^= 1 }, "box": func(w *wrapped) { w.Box[20] ^= 1 }, "signature": func(w *wrapped) { w.Signature[9] ^= 1 }, "format": func(w *wrapped) { w.Format = 2 },
	} {
		c := wrapped{w.Format, bytes.Clone(w.Key), bytes.Clone(w.Box), bytes.Clone(w.Signature)}
		change(&c)
		changed, _ := json.Marshal(c)
		if _, err := s.Unwrap(t.Context(), changed, aad); err == nil {
			t.Errorf("%s was changed", name)
		}
		v.yes.Store(true) // a vault whose word on signatures is worth nothing: the box still holds
		if _, err := s.Unwrap(t.Context(), changed, aad); err == nil && name != "signature" {
			t.Errorf("%s was changed, and nothing but the signature shows it", name)
		}
		v.yes.Store(false)
	}
	// Whoever knows the public key can wrap, and not sign.
	one, forged := make([]byte, 32), &wrapped{Format: format, Signature: w.Signature}
	aead, err := sealer(one)
	if err != nil {
		t.Fatal(err)
	}
	forged.Box = aead.Seal(nil, nil, []byte("a key of somebody else's, 32 byte"), aad)
	if forged.Key, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &v.key.PublicKey, one, nil); err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(forged)
	if k, err := s.Unwrap(t.Context(), raw, aad); err == nil {
		t.Errorf("a forged key was taken: %q", k)
	}
}

func TestFailures(t *testing.T) {
	v := start(t)
	s := v.open(t, v.secret)
	for _, status := range []int64{403, 429, 503} {
		v.fail.Store(status)
		if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil {
			t.Errorf("%d", status)
		}
	}
	v.fail.Store(0)
	if _, err := v.open(t, "another").Wrap(t.Context(), make([]byte, 32), nil); err == nil || strings.Contains(err.Error(), v.secret) {
		t.Errorf("another secret: %v", err)
	}
	f := file(t, "x")
	for _, spec := range []string{
		"", "https://v/keys/k?metadata=imds", "http://v" + path + "?metadata=imds", "https://v" + path, "https://v" + path + "?metadata=x", "https://v" + path + "?metadata=imds&tenant-id=" + tenant,
		"https://v" + path + "?tenant-id=x&client-id=" + client + "&client-secret-file=" + f, "https://v" + path + "?metadata=imds&x=y", "https://v" + path + "?metadata=imds&ca=" + f, "https://v" + path + "?metadata=imds&metadata=imds",
	} {
		if _, err := Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
}

// FuzzParse reads a file that is not what Wrap gave.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"format":1,"key":"eA==","box":"eA==","sign":"eA=="}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := parse(b); err == nil && (len(w.Key) == 0 || len(w.Box) == 0 || len(w.Signature) == 0) {
			t.Fatalf("%+v", w)
		}
	})
}
