// Package transit has a key wrapped by the transit engine of HashiCorp Vault or
// OpenBao, written from its published HTTP API. The engine's key must be of a kind
// that authenticates additional data (aes256-gcm96, the default, or chacha20-poly1305).
//
// Trust zone: trustee.
package transit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/keyservice"
)

const (
	maxAnswer = 256 << 10
	maxToken  = 8 << 10
	attempts  = 3
	// between is the first wait between attempts; the next is four times as long.
	between = 250 * time.Millisecond
	perCall = 8 * time.Second
)

type service struct {
	base      *url.URL // of the server
	mount     string
	key       string
	namespace string
	tokenFile string
	http      *http.Client
}

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Open takes https://HOST[:PORT]/MOUNT/KEY?token-file=FILE[&ca=FILE][&namespace=NS]:
// where the server is, where its engine is mounted, and the name of the engine's key.
func Open(_ context.Context, spec string) (keyservice.Service, error) {
	u, err := url.Parse(spec)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's own error repeats it
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("write https://HOST/MOUNT/KEY?token-file=FILE")
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) < 2 {
		return nil, errors.New("the path is MOUNT/KEY")
	}
	for _, p := range parts {
		if !name.MatchString(p) {
			return nil, fmt.Errorf("%.40q in the path is no name", p)
		}
	}
	s := &service{base: &url.URL{Scheme: u.Scheme, Host: u.Host}, mount: strings.Join(parts[:len(parts)-1], "/"), key: parts[len(parts)-1]}
	pool, err := s.options(u.Query())
	if err != nil {
		return nil, err
	}
	s.http = &http.Client{
		// An answer from elsewhere, or through a proxy of the environment's, is another's.
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConns: 2, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       perCall,
	}
	return s, nil
}

func (s *service) options(q url.Values) (pool *x509.CertPool, err error) {
	for k, v := range q {
		if len(v) != 1 || v[0] == "" {
			return nil, fmt.Errorf("%s is given more than once, or empty", k)
		}
		switch k {
		case "token-file":
			s.tokenFile = v[0]
		case "namespace":
			s.namespace = v[0]
		case "ca":
			b, err := os.ReadFile(v[0])
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(b) {
				return nil, fmt.Errorf("ca: %s has no certificate in PEM", v[0])
			}
		default:
			return nil, fmt.Errorf("%.40q is none of token-file, namespace, ca", k)
		}
	}
	if s.tokenFile == "" {
		return nil, errors.New("token-file is missing: the file with the token, which an agent of Vault's may renew")
	}
	return pool, nil
}

// ID implements keyservice.Service.
func (s *service) ID() string {
	id := "vault-transit:" + s.base.Host
	if s.namespace != "" {
		id += "/" + strings.Trim(s.namespace, "/")
	}
	return id + "/" + s.mount + "/" + s.key
}

// Wrap implements keyservice.Service.
func (s *service) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	var out struct {
		Ciphertext string `json:"ciphertext"`
	}
	if err := s.call(ctx, "encrypt", map[string][]byte{"plaintext": key, "associated_data": aad}, &out); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(out.Ciphertext, "vault:v") {
		return nil, errors.New("the answer has no ciphertext")
	}
	return []byte(out.Ciphertext), nil
}

// Unwrap implements keyservice.Service.
func (s *service) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := s.call(ctx, "decrypt", map[string]any{"ciphertext": string(wrapped), "associated_data": aad}, &out); err != nil {
		return nil, err
	}
	if len(out.Plaintext) == 0 {
		return nil, errors.New("the answer has no plaintext")
	}
	return out.Plaintext, nil
}

// errAgain says that the same may work in a moment.
var errAgain = errors.New("temporarily")

func (s *service) call(ctx context.Context, op string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	wait := between
	for i := range attempts {
		if err = s.once(ctx, op, body, out); !errors.Is(err, errAgain) || i == attempts-1 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
			wait *= 4
		}
	}
	return err
}

func (s *service) once(ctx context.Context, op string, body []byte, out any) error {
	token, err := s.token()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base.JoinPath("v1", s.mount, op, s.key).String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true")
	if s.namespace != "" {
		req.Header.Set("X-Vault-Namespace", s.namespace)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errAgain, err)
	case len(b) > maxAnswer:
		return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("%w: %w", errAgain, refusal(resp, b)) // 503 is also a sealed server
	case resp.StatusCode != http.StatusOK:
		return refusal(resp, b)
	}
	var doc struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || len(doc.Data) == 0 {
		return errors.New("the answer is not the transit engine's")
	}
	if err := json.Unmarshal(doc.Data, out); err != nil {
		return errors.New("the answer is not the transit engine's") // without its text, which may be a key
	}
	return nil
}

// refusal gives a status with what Vault says about it, which has no secret in it.
func refusal(resp *http.Response, b []byte) error {
	var doc struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(b, &doc)
	return fmt.Errorf("%s: %.300q", resp.Status, strings.TrimSpace(strings.Join(doc.Errors, "; ")))
}

// token reads the file each time: whoever renews the token replaces it.
func (s *service) token() (string, error) {
	f, err := os.Open(s.tokenFile)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" || len(b) > maxToken || strings.ContainsAny(t, " \t\r\n") {
		return "", fmt.Errorf("token: %s has not one token", s.tokenFile)
	}
	return t, nil
}
