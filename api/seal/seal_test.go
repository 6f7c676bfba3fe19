package seal_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/seal"
)

var update = flag.Bool("update", false, "write the golden vectors anew")

// vector is one file of testdata: a seal and what a verifier must say.
type vector struct {
	Comment string `json:"comment"`
	// Expect is "valid", "parse-error" or "signature-error".
	Expect string `json:"expect"`
	Key    string `json:"key"` // PEM of the owner's public key
	ID     string `json:"id,omitempty"`
	Seal   string `json:"seal"`
}

func statement() *seal.Statement {
	return &seal.Statement{
		Version: 1, Pod: seal.Pod{Namespace: "default", Name: "web"},
		Initdata: map[string]string{"sha256": strings.Repeat("a", 64), "sha384": strings.Repeat("b", 96)},
		Policy:   "sha256:" + strings.Repeat("c", 64),
		Images:   []seal.Image{{Container: "app", Reference: "docker.io/library/app:1", Digest: "sha256:" + strings.Repeat("d", 64)}},
		Measurements: []seal.Measurement{
			{TEE: "tpm-sim", Image: "sim", ID: "sha256:" + strings.Repeat("e", 64)},
		},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// edKey is a fixed key, so that the vectors are the same each time.
func edKey() ed25519.PrivateKey {
	s := sha256.Sum256([]byte("coffer seal golden vectors"))
	return ed25519.NewKeyFromSeed(s[:])
}

func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// resign puts a payload and header under a good signature.
func resign(header, payload string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(ed25519.Sign(edKey(), []byte(signed)))
}

func goldens(t *testing.T) map[string]vector {
	t.Helper()
	key := edKey()
	s, err := seal.Sign(statement(), key)
	if err != nil {
		t.Fatal(err)
	}
	pub := publicPEM(t, key.Public())
	parts := strings.Split(s.Raw, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	h, p := string(header), string(payload)
	bad := func(comment, raw string) vector { return vector{comment, "parse-error", pub, "", raw} }
	repl := func(old, with string) string {
		if !strings.Contains(p, old) {
			t.Fatalf("payload has no %s", old)
		}
		return resign(h, strings.Replace(p, old, with, 1))
	}
	_, other, _ := ed25519.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	return map[string]vector{
		"valid.json":           {"as Sign makes it", "valid", pub, s.ID, s.Raw},
		"other-key.json":       {"good seal, another owner's key", "signature-error", publicPEM(t, other.Public()), "", s.Raw},
		"changed-payload.json": {"pod's name changed after signing", "signature-error", pub, "", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(p, `"web"`, `"wed"`, 1))) + "." + parts[2]},
		"no-signature.json":    {"empty signature", "signature-error", pub, "", parts[0] + "." + parts[1] + "."},
		"alg-none.json":        {"alg none", "signature-error", pub, "", resign(strings.Replace(h, "EdDSA", "none", 1), p)},
		"alg-es256.json":       {"algorithm that is not the key's", "signature-error", pub, "", resign(strings.Replace(h, "EdDSA", "ES256", 1), p)},
		"other-type.json":      bad("typ is not a seal's", resign(strings.Replace(h, seal.Type, "JWT", 1), p)),
		"crit.json":            bad("critical header member", resign(strings.Replace(h, `{"alg"`, `{"crit":["x"],"alg"`, 1), p)),
		"unknown-member.json":  bad("unknown member", repl(`{"version"`, `{"extra":1,"version"`)),
		"version-2.json":       bad("another version", repl(`"version":1`, `"version":2`)),
		"no-initdata.json":     bad("no initdata digest", resign(h, strings.Replace(p, p[strings.Index(p, `"initdata"`):strings.Index(p, `,"policy"`)], `"initdata":{}`, 1))),
		"short-digest.json":    bad("digest too short", repl(strings.Repeat("a", 64), strings.Repeat("a", 62))),
		"upper-digest.json":    bad("digest in upper case", repl(strings.Repeat("a", 64), strings.Repeat("A", 64))),
		"md5.json":             bad("unknown algorithm", repl(`"sha256":"aaaa`, `"md5":"aaaa`)),
		"trailing.json":        bad("data after the document", resign(h, p+"{}")),
		"padded.json":          bad("padded base64", parts[0]+"=."+parts[1]+"."+parts[2]),
		"two-parts.json":       bad("no third part", parts[0]+"."+parts[1]),
		"local-time.json":      bad("created not in UTC", repl(`05Z"`, `05+02:00"`)),
	}
}

func TestGoldenVectors(t *testing.T) {
	want := goldens(t)
	if *update {
		for name, v := range want {
			b, _ := json.MarshalIndent(v, "", "  ")
			if err := os.WriteFile(filepath.Join("testdata", name), append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, _ := filepath.Glob("testdata/*.json")
	if len(files) != len(want) {
		t.Errorf("%d files in testdata, %d vectors: go test -update", len(files), len(want))
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var v vector
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			if v != want[filepath.Base(f)] {
				t.Error("the file differs from what the code makes; the format must not change")
			}
			if got := verdict(t, v); got != v.Expect {
				t.Errorf("%s: verdict %s, want %s", v.Comment, got, v.Expect)
			}
		})
	}
}

func verdict(t *testing.T, v vector) string {
	s, err := seal.Parse(v.Seal)
	if err != nil {
		return "parse-error"
	}
	block, _ := pem.Decode([]byte(v.Key))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if s.Verify(pub) != nil {
		return "signature-error"
	}
	if s.ID != v.ID {
		t.Errorf("id %s, want %s", s.ID, v.ID)
	}
	return "valid"
}

func TestES256AndNames(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := seal.Sign(statement(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Verify(key.Public()); err != nil {
		t.Error(err)
	}
	b, err := seal.Sign(statement(), edKey())
	if err != nil {
		t.Fatal(err)
	}
	if a.ID != b.ID {
		t.Error("the id depends on the signature")
	}
	if err := a.Verify(edKey().Public()); err == nil {
		t.Error("verified with another key")
	}
	d, _ := hex.DecodeString(strings.Repeat("a", 64))
	st := &a.Statement
	if !st.Names("sha256", d) || st.Names("sha384", d) || st.Names("sha512", d) || st.Names("sha256", nil) || st.Names("sha256", d[:31]) {
		t.Error("Names")
	}
	k384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := seal.Sign(statement(), k384); err == nil {
		t.Error("signed with P-384")
	}
}

func FuzzParse(f *testing.F) {
	s, err := seal.Sign(statement(), edKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Raw)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, in string) {
		p, err := seal.Parse(in)
		if err != nil {
			return
		}
		if p.Verify(edKey().Public()) == nil && p.ID != s.ID {
			t.Errorf("a forged seal verifies: %q", in)
		}
		if err := p.Statement.Validate(); err != nil {
			t.Error(err)
		}
	})
}
