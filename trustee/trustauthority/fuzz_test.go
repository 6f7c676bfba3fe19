package trustauthority

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/adminjwt"
)

var (
	day    = time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)
	seed   = `{"iat":1795759200,"exp":1795759500,"jti":"x","policy_ids_matched":[{"id":"a","version":"v1","hash":"h"}],"tdx":{"attester_type":"TDX","tdx_is_debuggable":false,"tdx_report_data":"` + strings.Repeat("00", 64) + `","tdx_mrconfigid":"` + strings.Repeat("00", 48) + `"}}`
	header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"PS384","kid":"k"}`))
)

func signed(t testing.TB, key *rsa.PrivateKey, payload string) string {
	t.Helper()
	s := header + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sum := sha512.Sum384([]byte(s))
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA384, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	return s + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// FuzzVerify feeds tokens that the service has not signed; none counts but the one that
// it has.
func FuzzVerify(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	k := &keys{wanted: make(chan struct{}, 1), known: []adminjwt.Key{{Public: &key.PublicKey, ID: "k", Algorithm: "PS384"}}}
	good := signed(f, key, seed)
	if _, err := k.verify(good, day); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{good, good + "=", good[:len(good)-4], "..", header + "..", strings.Replace(good, "E", "F", 1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := k.verify(s, day); err == nil && s != good {
			t.Errorf("%q counts: %+v", s, c)
		}
	})
}

// FuzzAnswered feeds claims that the service has signed: whatever they are, they prove
// nothing about another session.
func FuzzAnswered(f *testing.F) {
	f.Add([]byte(seed))
	f.Add([]byte(`{"tdx":null}`))
	f.Add([]byte(`{"tdx":{"attester_type":"TDX","tdx_report_data":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := new(claims)
		if json.Unmarshal(b, c) != nil {
			return
		}
		_ = c.fresh(day)
		q := &question{tee: "tdx", input: verify.Input{ReportData: []byte(strings.Repeat("x", 64))}}
		if r, err := q.answered(c, day); err == nil && r.Claims["report_data"] != strings.Repeat("78", 64) {
			t.Errorf("%s answers another question: %+v", b, r)
		}
	})
}
