// Package awskms has a key wrapped by AWS Key Management Service, written from its
// published JSON API: Encrypt and Decrypt with a symmetric key, and the additional data
// as encryption context.
//
// Trust zone: trustee.
package awskms

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/aws"
	"github.com/cofferproject/coffer/trustee/keyservice"
)

const (
	maxAnswer = 256 << 10
	attempts  = 3
	between   = 250 * time.Millisecond // the next wait is four times as long
	perCall   = 8 * time.Second
	contextID = "coffer-envelope-key" // of the encryption context
)

var arn = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]{1,32}):([0-9]{12}):key/([A-Za-z0-9-]{1,64})$`)

type service struct {
	arn, region string
	endpoint    string
	credentials string // file
	http        *http.Client
	now         func() time.Time
}

// Open takes ARN?credentials-file=FILE[&endpoint=URL][&ca=FILE]: a key's ARN and a
// credentials file in AWS's shared form, of which the default profile counts and which
// is read each time. The endpoint is the region's unless another one is named, such as
// that of a private link.
func Open(_ context.Context, spec string) (keyservice.Service, error) {
	id, query, _ := strings.Cut(spec, "?")
	m := arn.FindStringSubmatch(id)
	if m == nil {
		return nil, errors.New("write arn:aws:kms:REGION:ACCOUNT:key/ID?credentials-file=FILE; an alias may come to mean another key")
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the options are no query")
	}
	s := &service{arn: id, region: m[1], endpoint: "https://kms." + m[1] + ".amazonaws.com/", now: time.Now}
	if strings.HasPrefix(m[1], "cn-") {
		s.endpoint = "https://kms." + m[1] + ".amazonaws.com.cn/"
	}
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
			s.credentials = v[0]
		case "endpoint":
			u, err := url.Parse(v[0])
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
				return nil, errors.New("endpoint is no https://host[:port]")
			}
			if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsUnspecified() {
				return nil, errors.New("endpoint is no address")
			}
			s.endpoint = "https://" + u.Host + "/"
		case "ca":
			b, err := os.ReadFile(v[0])
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(b) {
				return nil, fmt.Errorf("ca: %s has no certificate in PEM", v[0])
			}
		default:
			return nil, fmt.Errorf("%.40q is none of credentials-file, endpoint, ca", k)
		}
	}
	if s.credentials == "" {
		return nil, errors.New("credentials-file is missing")
	}
	return pool, nil
}

// ID implements keyservice.Service.
func (s *service) ID() string { return "aws-kms:" + s.arn }

func encryptionContext(aad []byte) map[string]string {
	return map[string]string{contextID: hex.EncodeToString(aad)}
}

// Wrap implements keyservice.Service.
func (s *service) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	var out struct {
		CiphertextBlob []byte
		KeyID          string `json:"KeyId"`
	}
	if err := s.call(ctx, "Encrypt", map[string]any{"KeyId": s.arn, "Plaintext": key, "EncryptionContext": encryptionContext(aad)}, &out); err != nil {
		return nil, err
	}
	if len(out.CiphertextBlob) == 0 || out.KeyID != s.arn {
		return nil, errors.New("the answer has no ciphertext of that key")
	}
	return out.CiphertextBlob, nil
}

// Unwrap implements keyservice.Service.
func (s *service) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	var out struct {
		Plaintext []byte
		KeyID     string `json:"KeyId"`
	}
	if err := s.call(ctx, "Decrypt", map[string]any{"KeyId": s.arn, "CiphertextBlob": wrapped, "EncryptionContext": encryptionContext(aad)}, &out); err != nil {
		return nil, err
	}
	if len(out.Plaintext) == 0 || out.KeyID != s.arn {
		return nil, errors.New("the answer has no plaintext of that key")
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
	c, err := aws.ReadFile(s.credentials)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService."+op)
	aws.Sign(req, body, c, s.region, "kms", s.now())
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
		Type    string `json:"__type"`
		Message string `json:"message"`
		Upper   string `json:"Message"`
	}
	_ = json.Unmarshal(b, &doc)
	if doc.Message == "" {
		doc.Message = doc.Upper
	}
	_, kind, ok := strings.Cut(doc.Type, "#")
	if !ok {
		kind = doc.Type
	}
	err := fmt.Errorf("%s: %.80q %.300q", resp.Status, kind, doc.Message)
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 || kind == "ThrottlingException" {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return err
}
