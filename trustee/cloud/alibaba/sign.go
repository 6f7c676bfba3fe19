// Package alibaba has the request signature of Alibaba Cloud (V3, ACS3-HMAC-SHA256),
// written from its published description.
//
// Trust zone: trustee.
package alibaba

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Sign adds a signature to a request for the root path. Its query is the call's
// parameters; nonce is good once.
func Sign(req *http.Request, body []byte, id, secret, action, version, nonce string, now time.Time) {
	sum := sha256.Sum256(body)
	h := req.Header
	h.Set("x-acs-action", action)
	h.Set("x-acs-version", version)
	h.Set("x-acs-date", now.UTC().Format("2006-01-02T15:04:05Z"))
	h.Set("x-acs-signature-nonce", nonce)
	h.Set("x-acs-content-sha256", hex.EncodeToString(sum[:]))
	signed := map[string]string{"host": req.URL.Host}
	for k := range h {
		if l := strings.ToLower(k); strings.HasPrefix(l, "x-acs-") || l == "content-type" {
			signed[l] = strings.TrimSpace(h.Get(k))
		}
	}
	names := make([]string, 0, len(signed))
	for k := range signed {
		names = append(names, k)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(req.Method + "\n/\n" + canonicalQuery(req.URL.Query()) + "\n")
	for _, k := range names {
		b.WriteString(k + ":" + signed[k] + "\n")
	}
	list := strings.Join(names, ";")
	b.WriteString("\n" + list + "\n" + hex.EncodeToString(sum[:]))
	hash := sha256.Sum256([]byte(b.String()))
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte("ACS3-HMAC-SHA256\n" + hex.EncodeToString(hash[:])))
	h.Set("Authorization", "ACS3-HMAC-SHA256 Credential="+id+",SignedHeaders="+list+",Signature="+hex.EncodeToString(m.Sum(nil)))
}

func canonicalQuery(q url.Values) string {
	// url.Values.Encode sorts by name, and differs from RFC 3986 in the blank alone.
	return strings.ReplaceAll(q.Encode(), "+", "%20")
}
