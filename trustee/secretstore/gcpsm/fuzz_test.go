package gcpsm

import (
	"errors"
	"net/http"
	"testing"

	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

// FuzzAnswer reads answers of a service that is not what it should be.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"Name":"n","VersionId":"11111111-aaaa-bbbb-cccc-000000000001","SecretString":"{\"f\":\"x\"}"}`, `{"name":"projects/1/secrets/n/versions/3","payload":{"data":"eA==","dataCrc32c":"1"}}`,
		`{"value":"x","id":"https://v/secrets/n/0123456789abcdef0123456789abcdef","attributes":{"enabled":true}}`, `{"SecretName":"n","VersionId":"v1","SecretData":"eA==","SecretDataType":"binary"}`,
		`{"__type":"a#ResourceNotFoundException"}`, `{"error":{"code":"SecretNotFound","status":"NOT_FOUND"}}`, `{"Code":"Forbidden.ResourceNotFound"}`, `[`, ``,
	} {
		f.Add(200, []byte(s))
		f.Add(404, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		for _, w := range []secretstore.Want{{Name: "n"}, {Name: "n", Field: "f"}, {Name: "n", Version: "v1"}} {
			a := &outbound.Answer{Status: status, Body: append([]byte(nil), body...)}
			s, err := decode(a, w)
			if (s == nil) == (err == nil) || s != nil && (status != http.StatusOK || w.Version != "" && w.Version != s.Version) {
				t.Fatalf("%v, %v", s, err)
			}
			if err != nil && !errors.Is(err, secretstore.ErrAbsent) && !errors.Is(err, secretstore.ErrDeleted) && !errors.Is(err, secretstore.ErrRefused) && !errors.Is(err, secretstore.ErrMalformed) && !errors.Is(err, secretstore.ErrAway) {
				t.Fatalf("an error of no kind: %v", err)
			}
		}
	})
}
