package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// transcript writes down what goes over the wire, without what is new every time.
type transcript struct {
	http.RoundTripper
	out *bytes.Buffer
}

// shown are the headers that are part of the protocol.
var shown = []string{"Authorization", "Content-Type", "Cookie", "Set-Cookie", "Retry-After", "Cache-Control"}

// RoundTrip implements http.RoundTripper.
func (tr transcript) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = b
		r.Body = io.NopCloser(bytes.NewReader(b))
	}
	fmt.Fprintf(tr.out, "> %s %s\n", r.Method, r.URL.RequestURI())
	write(tr.out, ">", r.Header, body)
	resp, err := tr.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	fmt.Fprintf(tr.out, "< %d\n", resp.StatusCode)
	write(tr.out, "<", resp.Header, b)
	fmt.Fprintln(tr.out)
	return resp, nil
}

var (
	bearer  = regexp.MustCompile(`(Bearer |kbs-session-id=[oa]1\.)[A-Za-z0-9_.-]+`)
	expires = regexp.MustCompile(`Expires=[^;]+`)
)

func write(w io.Writer, arrow string, h http.Header, body []byte) {
	for _, name := range shown {
		if v := h.Get(name); v != "" {
			v = bearer.ReplaceAllString(expires.ReplaceAllString(v, "Expires=(time)"), "$1(text)")
			fmt.Fprintf(w, "%s %s: %s\n", arrow, name, v)
		}
	}
	if len(body) > 0 {
		fmt.Fprintf(w, "%s %s\n", arrow, masked(body))
	}
}

// masked gives a body on one line with what is random named by its kind.
func masked(body []byte) string {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || !json.Valid(body) {
		if bytes.Count(body, []byte(".")) == 2 {
			return "(token)"
		}
		return fmt.Sprintf("(%d bytes of text)", len(body))
	}
	return maskValue("", v)
}

func maskValue(name string, v any) string {
	switch t := v.(type) {
	case map[string]any:
		var l []string
		for _, k := range slices.Sorted(maps.Keys(t)) {
			l = append(l, fmt.Sprintf("%q:%s", k, maskValue(k, t[k])))
		}
		return "{" + strings.Join(l, ",") + "}"
	case []any:
		var l []string
		for _, e := range t {
			l = append(l, maskValue(name, e))
		}
		return "[" + strings.Join(l, ",") + "]"
	case string:
		return maskText(name, t)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

func maskText(name, s string) string {
	kind := ""
	switch name {
	case "token", "record", "mac", "report_data", "initdata", "evidence":
		kind = "text"
	case "x5c":
		kind = "base64 of DER"
	case "nonce":
		kind = "base64"
	case "x", "y", "encrypted_key", "iv", "ciphertext", "tag", "policy":
		kind = "base64url"
	case "protected":
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			return "(not base64url)"
		}
		// The order of its members is part of the format.
		return "base64url of " + string(regexp.MustCompile(`"(x|y|ek)":"[^"]+"`).ReplaceAll(b, []byte(`"$1":"(base64url)"`)))
	}
	if kind == "" || s == "" {
		b, _ := json.Marshal(s)
		return string(b)
	}
	if kind == "base64" {
		return fmt.Sprintf(`"(base64, %d)"`, len(s))
	}
	return `"(` + kind + `)"`
}

// golden compares with testdata/transcripts, which -update writes.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	p := filepath.Join("testdata", "transcripts", name+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what goes over the wire now:\n%s", p, got)
	}
}

// Each flow as it goes over the wire.
func TestTranscripts(t *testing.T) {
	w := newWorld(t, loopback)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	record := func(name string, flow func(c *rcar)) {
		t.Run(name, func(t *testing.T) {
			c := w.client("")
			out := new(bytes.Buffer)
			c.t, c.http.Transport = t, transcript{c.http.Transport, out}
			flow(c)
			golden(t, name, out.Bytes())
		})
	}
	admin := func(c *rcar, method, path, body string) *answer {
		return c.do(method, path, []byte(body), "Authorization", "Bearer "+w.admin.token(method, "/kbs/v0"+path))
	}
	record("background-check", func(c *rcar) {
		c.handshake(doc)
		c.get(secretName)
		c.get("default/db/none")
	})
	record("passport", func(c *rcar) {
		attester := w.client("") // the token goes to somebody else
		attester.handshake(doc)
		c.key, c.token = attester.key, attester.token
		if got := c.open(c.bearer(secretName).body); string(got) != "hunter2" {
			c.t.Errorf("secret %q", got)
		}
		c.token = "a.b.c"
		c.bearer(secretName)
	})
	record("refusals", func(c *rcar) {
		c.do("POST", "/auth", []byte(`{"version":"0.1.0","tee":"snp","extra-params":""}`))
		c.do("POST", "/auth", []byte(`{"version":"0.4.0","tee":"sgx2","extra-params":""}`))
		c.do("POST", "/auth", []byte(`{`))
		c.do("POST", "/attest", []byte(`{}`))
		c.get(secretName)
		c.get("two/parts")
		c.do("GET", "/nebula-ca/credential", nil)
		c.do("POST", "/resource/a/b/c", []byte("x"))
		c.auth(fakeTEE, `""`)
		c.attest(c.fake(doc, func(e *fakeEvidence) { e.ReportData = "00" }), doc)
	})
	record("administration", func(c *rcar) {
		for _, a := range []*answer{
			admin(c, "POST", "/resource/default/db/other", "hunter3"),
			admin(c, "DELETE", "/resource/default/db/other", ""),
			admin(c, "POST", "/attestation-policy", `{"type":"rego","policy_id":"default_cpu","policy":"`+b64url([]byte(fakePolicy()))+`"}`),
			admin(c, "POST", "/reference-value", `{"version":"0.1.0","type":"sample","payload":"eyJzdm4iOlsxXX0="}`),
			admin(c, "GET", "/reference-value/svn", ""),
			admin(c, "POST", "/resource-policy", `{"policy":"`+b64url([]byte("package policy\ndefault allow = true\n"))+`"}`),
			admin(c, "GET", "/resource-policy", ""),
		} {
			if a.status != 200 {
				c.t.Errorf("%d %s", a.status, a.body)
			}
		}
		if a := admin(c, "GET", "/reference-value/none", ""); a.status != 404 {
			c.t.Errorf("%d %s", a.status, a.body)
		}
		if a := admin(c, "POST", "/resource-policy", `{"policy":""}`); a.status != 400 {
			c.t.Errorf("%d %s", a.status, a.body)
		}
		admin(c, "POST", "/attestation-policy", `{"policy_id":"default","policy":""}`)
		c.do("POST", "/reference-value", []byte(`{}`))
	})
	t.Run("attestation-service", func(t *testing.T) {
		c := w.as()
		out := new(bytes.Buffer)
		c.t, c.http.Transport = t, transcript{c.http.Transport, out}
		c.rest("POST", "/challenge", `{"tee":"`+fakeTEE+`","tee_params":""}`)
		evidence, runtime := w.session("n")
		c.rest("POST", "/attestation", restBody(fakeTEE, evidence, `,"runtime_data":{"structured":`+runtime+`}`))
		c.rest("POST", "/attestation", restBody(fakeTEE, evidence, ""))
		c.rest("POST", "/policy", `{"policy_id":"default_cpu","policy":""}`)
		c.rest("GET", "/.well-known/jwks.json", "")
		golden(t, "attestation-service", out.Bytes())
	})
}
