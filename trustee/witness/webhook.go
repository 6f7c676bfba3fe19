package witness

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

// SignatureHeader of a webhook's request is t=<Unix time>,v1=<hex HMAC-SHA256 of the
// time, a full stop and the body>.
const SignatureHeader = "Coffer-Signature"

const maxAnswer = 4 << 10

// webhook posts checkpoints.
type webhook struct {
	url    string
	shown  string
	key    []byte // nil: the certificate says who sends
	client *http.Client
}

func (t Target) webhook(u *url.URL, conf *tls.Config) (receiver, error) {
	w := &webhook{url: u.String(), shown: "https://" + u.Host}
	if t.HMACFile != "" {
		b, err := os.ReadFile(t.HMACFile)
		if err != nil {
			return nil, err
		}
		if w.key = bytes.TrimSpace(b); len(w.key) < leastSecret {
			return nil, fmt.Errorf("%s: a key of at least %d bytes", t.HMACFile, leastSecret)
		}
	}
	if w.key == nil && t.CertFile == "" {
		return nil, fmt.Errorf("%s: a webhook needs a certificate or an HMAC key, so that it knows who sends", w.shown)
	}
	w.client = &http.Client{
		Timeout: sendTime,
		Transport: &http.Transport{
			TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: sendTime, ResponseHeaderTimeout: sendTime,
			MaxResponseHeaderBytes: 16 << 10, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the witness points elsewhere") },
	}
	return w, nil
}

func (w *webhook) String() string { return w.shown }

func (w *webhook) send(ctx context.Context, c auditlog.Signed) error {
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if w.key != nil {
		req.Header.Set(SignatureHeader, signature(w.key, time.Now().Unix(), body))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a secret
		}
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func signature(key []byte, at int64, body []byte) string {
	t := strconv.FormatInt(at, 10)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(t + "."))
	m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}
