// Package gcpkms has a key wrapped by Google Cloud Key Management Service, written from
// its published REST API: encrypt and decrypt with a symmetric key, additional data, and
// the checksums by which either end notices damage.
//
// Trust zone: trustee.
package gcpkms

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/google"
	"github.com/cofferproject/coffer/trustee/keyservice"
)

const (
	maxAnswer = 256 << 10
	attempts  = 3
	between   = 250 * time.Millisecond // the next wait is four times as long
	perCall   = 8 * time.Second
	scope     = "https://www.googleapis.com/auth/cloudkms"
	tokenURL  = "https://oauth2.googleapis.com/token"
)

var keyName = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9.:-]{0,62}/locations/[a-z0-9-]{1,32}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)

type service struct {
	name     string
	endpoint string
	tokens   string // URL
	file     string // of the service account's key
	http     *http.Client
	now      func() time.Time
}

// Open takes projects/P/locations/L/keyRings/R/cryptoKeys/K?credentials-file=FILE
// [&endpoint=URL][&token-endpoint=URL][&ca=FILE]: a key's name, and the key file (JSON)
// of a service account that may use it.
func Open(_ context.Context, spec string) (keyservice.Service, error) {
	id, query, _ := strings.Cut(spec, "?")
	if !keyName.MatchString(id) {
		return nil, errors.New("write projects/P/locations/L/keyRings/R/cryptoKeys/K?credentials-file=FILE")
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the options are no query")
	}
	s := &service{name: id, endpoint: "https://cloudkms.googleapis.com", tokens: tokenURL, now: time.Now}
	pool, err := s.options(q)
	if err != nil {
		return nil, err
	}
	s.http = &http.Client{
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
		case "credentials-file":
			s.file = v[0]
		case "endpoint", "token-endpoint":
			u, err := url.Parse(v[0])
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || k == "endpoint" && strings.Trim(u.Path, "/") != "" {
				return nil, fmt.Errorf("%s is no https URL", k)
			}
			if k == "endpoint" {
				s.endpoint = "https://" + u.Host
			} else {
				s.tokens = u.String()
			}
		case "ca":
			b, err := os.ReadFile(v[0])
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(b) {
				return nil, fmt.Errorf("ca: %s has no certificate in PEM", v[0])
			}
		default:
			return nil, fmt.Errorf("%.40q is none of credentials-file, endpoint, token-endpoint, ca", k)
		}
	}
	if s.file == "" {
		return nil, errors.New("credentials-file is missing")
	}
	return pool, nil
}

// ID implements keyservice.Service.
func (s *service) ID() string { return "gcp-kms:" + s.name }

// checksum is the API's: CRC32C, as a decimal in a string.
func checksum(b []byte) string {
	return fmt.Sprint(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// Wrap implements keyservice.Service.
func (s *service) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	var out struct {
		Name       string `json:"name"`
		Ciphertext []byte `json:"ciphertext"`
		Sum        string `json:"ciphertextCrc32c"`
		Plain      bool   `json:"verifiedPlaintextCrc32c"`
		AAD        bool   `json:"verifiedAdditionalAuthenticatedDataCrc32c"`
	}
	err := s.call(ctx, ":encrypt", map[string]any{
		"plaintext": key, "additionalAuthenticatedData": aad, "plaintextCrc32c": checksum(key), "additionalAuthenticatedDataCrc32c": checksum(aad),
	}, &out)
	switch {
	case err != nil:
		return nil, err
	case !strings.HasPrefix(out.Name, s.name+"/cryptoKeyVersions/") || len(out.Ciphertext) == 0:
		return nil, errors.New("the answer has no ciphertext of that key")
	case !out.Plain || !out.AAD || out.Sum != checksum(out.Ciphertext):
		return nil, errors.New("the answer's checksums do not fit: something was damaged on its way")
	}
	return out.Ciphertext, nil
}

// Unwrap implements keyservice.Service.
func (s *service) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
		Sum       string `json:"plaintextCrc32c"`
	}
	err := s.call(ctx, ":decrypt", map[string]any{
		"ciphertext": wrapped, "additionalAuthenticatedData": aad, "ciphertextCrc32c": checksum(wrapped), "additionalAuthenticatedDataCrc32c": checksum(aad),
	}, &out)
	switch {
	case err != nil:
		return nil, err
	case len(out.Plaintext) == 0:
		return nil, errors.New("the answer has no plaintext")
	case out.Sum != checksum(out.Plaintext):
		return nil, errors.New("the answer's checksum does not fit: something was damaged on its way")
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
	token, err := s.token(ctx)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	return s.post(ctx, s.endpoint+"/v1/"+s.name+op, "application/json", "Bearer "+token, body, out)
}

func (s *service) post(ctx context.Context, to, kind, authorization string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
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
		return fmt.Errorf("%w: %w", errAgain, refusal(resp, b))
	case resp.StatusCode != http.StatusOK:
		return refusal(resp, b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return errors.New("the answer is not the service's") // without its text, which may be a key
	}
	return nil
}

// refusal gives a status with what the service says about it.
func refusal(resp *http.Response, b []byte) error {
	var doc struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	var detail struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(b, &doc)
	if json.Unmarshal(doc.Error, &detail) != nil {
		detail.Status, detail.Message = strings.Trim(string(doc.Error), `"`), doc.Description
	}
	return fmt.Errorf("%s: %.80q %.300q", resp.Status, detail.Status, detail.Message)
}

// token gets an access token for the service account, anew for each call: a key is
// wrapped or unwrapped once in a process's life.
func (s *service) token(ctx context.Context) (string, error) {
	form, err := google.Grant(s.file, scope, s.tokens, s.now())
	if err != nil {
		return "", err
	}
	var out google.Token
	if err := s.post(ctx, s.tokens, "application/x-www-form-urlencoded", "", []byte(form), &out); err != nil {
		return "", err
	}
	return out.Token, out.Check()
}
