package awskms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/aws"
)

const keyARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// fake behaves like the service for one key: it checks signatures, sessions, the
// encryption context, and fails as told.
type fake struct {
	*httptest.Server
	creds aws.Credentials
	aead  cipher.AEAD
	fault atomic.Pointer[func(http.ResponseWriter) bool]
	calls atomic.Int64
}

func newFake(t *testing.T) *fake {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{creds: aws.Credentials{ID: "AKIDEXAMPLE", Secret: "the secret", Token: "thesession"}}
	if f.aead, err = cipher.NewGCMWithRandomNonce(b); err != nil {
		t.Fatal(err)
	}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

var authorization = regexp.MustCompile(`SignedHeaders=([a-z0-9;-]+), `)

func (f *fake) signed(r *http.Request, body []byte) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute || m == nil {
		return false
	}
	again, err := http.NewRequest(r.Method, f.URL+"/", nil)
	if err != nil {
		return false
	}
	for h := range strings.SplitSeq(m[1], ";") {
		if v := r.Header.Get(h); h != "host" {
			again.Header.Set(h, v)
		}
	}
	for _, must := range []string{"host", "x-amz-date", "x-amz-target", "x-amz-security-token"} {
		if !strings.Contains(";"+m[1]+";", ";"+must+";") {
			return false
		}
	}
	aws.Sign(again, body, &f.creds, "eu-central-1", "kms", at)
	return again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.calls.Add(1)
	body, _ := io.ReadAll(r.Body)
	if p := f.fault.Load(); p != nil && (*p)(w) {
		return
	}
	refuse := func(kind, text string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"__type":"com.amazonaws.kms#%s","message":%q}`, kind, text)
	}
	if !f.signed(r, body) {
		refuse("InvalidSignatureException", "The request signature we calculated does not match")
		return
	}
	var in struct {
		KeyID             string `json:"KeyId"`
		Plaintext         []byte
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	if json.Unmarshal(body, &in) != nil || in.KeyID != keyARN {
		refuse("NotFoundException", "Key does not exist")
		return
	}
	aad := fmt.Appendf(nil, "%v", maps.Collect(maps.All(in.EncryptionContext)))
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		c := f.aead.Seal(nil, nil, in.Plaintext, aad)
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": keyARN, "CiphertextBlob": c, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
	case "TrentService.Decrypt":
		p, err := f.aead.Open(nil, nil, in.CiphertextBlob, aad)
		if err != nil {
			refuse("InvalidCiphertextException", "")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": keyARN, "Plaintext": p})
	default:
		refuse("UnknownOperationException", "")
	}
}

func (f *fake) open(t *testing.T) *service {
	t.Helper()
	dir := t.TempDir()
	ca, creds := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "credentials")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})))
	write(t, creds, "[other]\naws_access_key_id = x\naws_secret_access_key = y\n[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = the secret\naws_session_token = thesession\n")
	s, err := Open(t.Context(), keyARN+"?credentials-file="+creds+"&endpoint="+f.URL+"&ca="+ca)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*service)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWrap(t *testing.T) {
	f := newFake(t)
	s := f.open(t)
	key := bytes.Repeat([]byte{7}, 32)
	wrapped, err := s.Wrap(t.Context(), key, []byte("place"))
	if err != nil || bytes.Contains(wrapped, key) {
		t.Fatalf("%x, %v", wrapped, err)
	}
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("x")); err == nil || !strings.Contains(err.Error(), "InvalidCiphertext") {
		t.Errorf("another context: %v", err)
	}
	if s.ID() != "aws-kms:"+keyARN {
		t.Error(s.ID())
	}
	f.creds.Secret = "another secret"
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err == nil || !strings.Contains(err.Error(), "InvalidSignature") {
		t.Errorf("a key that was withdrawn: %v", err)
	}
	s.now = func() time.Time { return time.Now().Add(-time.Hour) }
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err == nil {
		t.Error("an old signature")
	}
}

func TestFaults(t *testing.T) {
	f := newFake(t)
	s := f.open(t)
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
		"throttled, then well": {answer(400, `{"__type":"ThrottlingException"}`, 2), "", 3},
		"down, then well":      {answer(503, "", 1), "", 2},
		"down":                 {answer(500, "", 9), "500", 3},
		"denied":               {answer(400, `{"__type":"AccessDeniedException","Message":"not authorized"}`, 9), "AccessDenied", 1},
		"huge":                 {answer(200, strings.Repeat("x", 1<<20), 9), "more than", 1},
		"not its":              {answer(200, `[]`, 9), "not the service's", 1},
		"another key":          {answer(200, `{"KeyId":"arn:other","Plaintext":"AAAA"}`, 9), "of that key", 1},
		"nothing":              {answer(200, `{}`, 9), "of that key", 1},
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
	hang := func(http.ResponseWriter) bool { time.Sleep(400 * time.Millisecond); return false }
	f.fault.Store(&hang)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Unwrap(ctx, wrapped, nil); err == nil {
		t.Error("a hung service")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	creds := filepath.Join(dir, "credentials")
	write(t, creds, "[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
	for _, spec := range []string{
		"", "alias/coffer?credentials-file=" + creds, keyARN, keyARN + "?credentials-file=" + creds + "&secret=x", keyARN + "?credentials-file=a&credentials-file=b",
		keyARN + "?credentials-file=" + creds + "&endpoint=http://kms", keyARN + "?credentials-file=" + creds + "&endpoint=https://kms/path",
		"arn:aws:kms:eu-central-1:123456789012:alias/x?credentials-file=" + creds, keyARN + "?credentials-file=" + creds + "&ca=" + filepath.Join(dir, "none"),
	} {
		if _, err := Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
	s, err := Open(t.Context(), keyARN+"?credentials-file="+creds)
	if err != nil {
		t.Fatal(err)
	}
	if e := s.(*service).endpoint; e != "https://kms.eu-central-1.amazonaws.com/" {
		t.Error(e)
	}
	for what, text := range map[string]string{"nothing": "", "another profile": "[x]\naws_access_key_id=A\naws_secret_access_key=B\n", "half": "[default]\naws_access_key_id=A\n"} {
		write(t, creds, text)
		if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil || !strings.Contains(err.Error(), "credentials") {
			t.Errorf("%s: %v", what, err)
		}
	}
	write(t, creds, "[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
	if err := os.Chmod(creds, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("credentials for everybody: %v", err)
	}
}
