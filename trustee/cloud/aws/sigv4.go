// Package aws has the credentials of AWS and its Signature Version 4, for services of
// that cloud that are asked in JSON.
//
// Invariants: a credentials file is one that its owner alone can read; no secret is in
// an error.
//
// Trust zone: trustee.
package aws

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const maxCredentials = 64 << 10

// Credentials are an access key, and the token of a session that has one.
type Credentials struct{ ID, Secret, Token string }

// ReadFile reads the default profile of a shared credentials file, which its
// owner alone can read.
func ReadFile(path string) (*Credentials, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("credentials: %s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	c, profile := &Credentials{}, ""
	in := bufio.NewScanner(io.LimitReader(f, maxCredentials))
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		if strings.HasPrefix(line, "[") {
			profile = strings.TrimSpace(strings.Trim(line, "[]"))
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || profile != "default" {
			continue
		}
		switch strings.TrimSpace(k) {
		case "aws_access_key_id":
			c.ID = strings.TrimSpace(v)
		case "aws_secret_access_key":
			c.Secret = strings.TrimSpace(v)
		case "aws_session_token":
			c.Token = strings.TrimSpace(v)
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("credentials: %s is malformed", path)
	}
	if c.ID == "" || c.Secret == "" || strings.ContainsAny(c.ID+c.Token, " \r\n") {
		return nil, fmt.Errorf("credentials: %s has no access key in the profile default", path)
	}
	return c, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// Sign adds an AWS Signature Version 4 to a request for the root path without a query.
func Sign(req *http.Request, body []byte, c *Credentials, region, service string, now time.Time) {
	now = now.UTC()
	day, stamp := now.Format("20060102"), now.Format("20060102T150405Z")
	req.Header.Set("X-Amz-Date", stamp)
	if c.Token != "" {
		req.Header.Set("X-Amz-Security-Token", c.Token)
	}
	headers := map[string]string{"host": req.URL.Host}
	for k, v := range req.Header {
		headers[strings.ToLower(k)] = strings.TrimSpace(strings.Join(v, ","))
	}
	names := make([]string, 0, len(headers))
	for k := range headers {
		names = append(names, k)
	}
	slices.Sort(names)
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n/\n\n", req.Method)
	for _, k := range names {
		fmt.Fprintf(&canonical, "%s:%s\n", k, headers[k])
	}
	signed, sum := strings.Join(names, ";"), sha256.Sum256(body)
	fmt.Fprintf(&canonical, "\n%s\n%x", signed, sum)
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	hash := sha256.Sum256([]byte(canonical.String()))
	key := []byte("AWS4" + c.Secret)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(hash[:])))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.ID+"/"+scope+", SignedHeaders="+signed+", Signature="+signature)
}
