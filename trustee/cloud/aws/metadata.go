package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/outbound"
)

// MetadataURL is where a machine's metadata service is.
const MetadataURL = "http://169.254.169.254"

var roleName = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]{1,128}$`)

// Metadata gets the credentials of the machine's role from its metadata service, version
// 2, and says how long they are good.
func Metadata(ctx context.Context, web *outbound.Client, base string, now time.Time) (*Credentials, time.Duration, error) {
	base = strings.TrimSuffix(base, "/") + "/latest/"
	token, err := metadata(ctx, web, http.MethodPut, base+"api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
	if err != nil {
		return nil, 0, err
	}
	const roles = "meta-data/iam/security-credentials/"
	role, err := metadata(ctx, web, http.MethodGet, base+roles, "X-aws-ec2-metadata-token", token)
	if err != nil {
		return nil, 0, err
	}
	if !roleName.MatchString(role) {
		return nil, 0, errors.New("metadata service: no name of a role")
	}
	text, err := metadata(ctx, web, http.MethodGet, base+roles+role, "X-aws-ec2-metadata-token", token)
	if err != nil {
		return nil, 0, err
	}
	return parseMetadata([]byte(text), now)
}

func parseMetadata(b []byte, now time.Time) (*Credentials, time.Duration, error) {
	var doc struct {
		Code            string
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
	}
	c := &Credentials{}
	err := json.Unmarshal(b, &doc)
	c.ID, c.Secret, c.Token = doc.AccessKeyID, doc.SecretAccessKey, doc.Token
	if err != nil || doc.Code != "Success" || !word(c.ID) || c.Secret == "" || !word(c.Token) || !doc.Expiration.After(now) {
		return nil, 0, errors.New("metadata service: no credentials that are good")
	}
	return c, doc.Expiration.Sub(now), nil
}

func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

func metadata(ctx context.Context, web *outbound.Client, method, to, header, value string) (string, error) {
	a, err := web.Do(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, to, nil)
		if err == nil {
			req.Header.Set(header, value)
		}
		return req, err
	})
	if err != nil {
		return "", fmt.Errorf("metadata service: %w", err)
	}
	defer clear(a.Body)
	b := bytes.TrimSpace(a.Body)
	if a.Status != http.StatusOK || len(b) == 0 || len(b) > 16<<10 || header == "X-aws-ec2-metadata-token-ttl-seconds" && !word(string(b)) {
		return "", fmt.Errorf("metadata service: status %d", a.Status)
	}
	return string(b), nil
}
