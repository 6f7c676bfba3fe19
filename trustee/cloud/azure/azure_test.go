package azure

import (
	"strings"
	"testing"
)

// FuzzToken reads answers of a token endpoint that is not what it should be.
func FuzzToken(f *testing.F) {
	for _, s := range []string{`{"access_token":"a.b","token_type":"Bearer","expires_in":3599}`, `{"access_token":"a","token_type":"Bearer","expires_in":"3599"}`, `{"error":"invalid_client"}`, `{"access_token":"a b"}`, ``} {
		f.Add(200, []byte(s))
		f.Add(401, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		token, life, err := parseToken(status, body)
		if (token == "") == (err == nil) || life < 0 || strings.ContainsAny(token, " \r\n") || err == nil && status != 200 {
			t.Fatalf("%q, %v, %v", token, life, err)
		}
	})
}
