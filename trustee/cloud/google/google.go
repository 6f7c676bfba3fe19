// Package google gets access tokens of Google's cloud: by a service account's key file,
// written from the published grant (RFC 7523).
//
// Invariants: a key file is one that its owner alone can read, and the addresses in it do
// not count; no secret is in an error.
//
// Trust zone: trustee.
package google

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"
)

// TokenURL is where tokens are had.
const TokenURL = "https://oauth2.googleapis.com/token"

const maxKeyFile = 64 << 10

// Token is the answer of a token endpoint, or of a machine's metadata service.
type Token struct {
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Seconds int64  `json:"expires_in"`
}

// Check refuses what is no bearer token.
func (t *Token) Check() error {
	if t.Token == "" || len(t.Token) > 16<<10 || !strings.EqualFold(t.Type, "Bearer") || strings.ContainsFunc(t.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("the token endpoint gave no bearer token")
	}
	return nil
}

// Grant gives the form that asks a token endpoint for a token of a service account.
func Grant(file, scope, endpoint string, now time.Time) (string, error) {
	a, err := readAccount(file)
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"iss": a.email, "scope": scope, "aud": endpoint, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.id})
	if err != nil {
		return "", err
	}
	text := enc.EncodeToString(head) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {text + "." + enc.EncodeToString(sig)}}.Encode(), nil
}

type account struct {
	email, id string
	key       *rsa.PrivateKey
}

// readAccount reads a service account's key file, which its owner alone can read. The
// addresses in it do not count: those of the command line do.
func readAccount(path string) (*account, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var doc struct {
		Type  string `json:"type"`
		Email string `json:"client_email"`
		ID    string `json:"private_key_id"`
		Key   string `json:"private_key"`
	}
	if len(b) > maxKeyFile || json.Unmarshal(b, &doc) != nil || doc.Type != "service_account" || doc.Email == "" {
		return nil, fmt.Errorf("%s is no key file of a service account", path)
	}
	block, _ := pem.Decode([]byte(doc.Key))
	if block == nil {
		return nil, fmt.Errorf("%s has no private key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: its private key is malformed", path)
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: its private key is not of RSA", path)
	}
	return &account{doc.Email, doc.ID, key}, nil
}
