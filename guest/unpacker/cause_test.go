package unpacker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/registry"
	. "github.com/cofferproject/coffer/test/imagetest"
)

// What a failed pull must not tell the host: a registry's words, a credential,
// a signed address, a name in an encrypted layer.
const canary = "CANARY-7f3a"

// The host is told which registry, which layer and what kind of failure, whatever
// a registry or an image puts into its answers.
func TestHostIsToldNoMore(t *testing.T) {
	inside := Tar(t, Entry{Name: "../" + canary})
	enc := inside.Gzip(t).Encrypt(t, "kbs:///default/key/1", kek)
	good := Tar(t, Entry{Name: "x", Data: strings.Repeat("x", 200_000)})
	answer := func(status int, header, value string) func(*Registry, *PullRequest) {
		return func(r *Registry, _ *PullRequest) {
			r.Blob = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
				if len(b) < 1000 {
					return false // the config
				}
				if header != "" {
					w.Header().Set(header, value)
				}
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, canary, "session "+canary)
				return true
			}
		}
	}
	for name, c := range map[string]struct {
		layers []Layer
		prep   func(*Registry, *PullRequest)
		canary bool // whether the full text has it, so that the case can fail
		want   []string
	}{
		"a registry's words":          {[]Layer{good}, answer(403, "", ""), true, []string{"layer 1 of 1", "registry HOST", "answers HTTP 403 Forbidden"}},
		"a token server's name":       {[]Layer{good}, answer(401, "WWW-Authenticate", `Bearer realm="http://`+canary+`/token"`), true, []string{"layer 1 of 1", "wants credentials"}},
		"a redirect with a signature": {[]Layer{good}, answer(302, "Location", "ftp://store.example/"+canary+"?sig="+canary), false, []string{"layer 1 of 1", "registry HOST"}},
		"a content range": {[]Layer{good}, func(r *Registry, _ *PullRequest) {
			r.Blob = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
				if len(b) < 1000 {
					return false
				}
				if q.Header.Get("Range") == "" {
					w.Header().Set("Content-Length", fmt.Sprint(len(b)))
					_, _ = w.Write(b[:100_000])
					return true
				}
				w.Header().Set("Content-Range", canary)
				w.WriteHeader(http.StatusPartialContent)
				return true
			}
		}, true, []string{"layer 1 of 1", "registry HOST"}},
		"a file's name in an encrypted layer": {[]Layer{enc}, nil, true, []string{"layer 1 of 1", "cannot be read"}},
		"nothing fails":                       {[]Layer{good.Gzip(t)}, nil, false, nil},
		"changed bytes": {[]Layer{good}, func(r *Registry, _ *PullRequest) {
			r.Replace("blobs/"+string(good.Descriptor.Digest), flip(good.Blob))
		}, false, []string{"layer 1 of 1", "registry HOST", "other bytes than the digest names"}},
		"a wide window": {[]Layer{longWindow(t)}, nil, false, []string{"layer 1 of 1", "window of 16 MiB"}},
		"no such manifest": {[]Layer{good}, func(_ *Registry, q *PullRequest) {
			q.Image.Digest, q.ManifestDigest = "", digest.FromBytes([]byte("other"))
		}, false, []string{"registry HOST", "HTTP 404 Not Found"}},
		"no space": {[]Layer{Tar(t, Entry{Name: canary, Data: strings.Repeat("x", 300<<20)}).Zstd(t)}, nil, true, []string{"layer 1 of 1", "no space left", "256 MiB", "more memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRegistry(t)
			s := newService(t, Options{})
			req := request(t, r, r.Image(t, "v1", `{}`, c.layers...))
			var asked atomic.Int64
			if c.prep != nil {
				c.prep(r, &req)
			}
			im := &Images{Service: s, Config: func(context.Context) (registry.Config, error) { return req.Config, nil }, KeySocket: keyHolder(t, &asked)}
			image := r.Host() + "/team/app@" + string(req.ManifestDigest)
			_, err := im.Prepare(t.Context(), &podpolicy.Container{Image: image, ManifestDigest: string(req.ManifestDigest)})
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var p *PullError
			if !errors.As(err, &p) {
				t.Fatalf("%T %v", err, err)
			}
			if strings.Contains(p.Error(), canary) != c.canary {
				t.Errorf("the full text: %s", p.Error())
			}
			got := p.Public()
			if strings.Contains(got, canary) {
				t.Errorf("the host is told %q", got)
			}
			for _, w := range append(c.want, "image "+image) {
				if w = strings.ReplaceAll(w, "HOST", r.Host()); !strings.Contains(got, w) {
					t.Errorf("the host is told %q, which does not say %q", got, w)
				}
			}
			t.Log(got)
		})
	}
}

// A parser that was taken over writes its reply as it likes. Nothing of it is a
// text that the host gets to read.
func TestParsersWordIsChecked(t *testing.T) {
	var r reply
	err := json.Unmarshal([]byte(`{"error":"`+canary+`","causes":[
		{"why":"`+canary+`","place":"`+canary+`","status":70000,"mib":18446744073709551615},
		{"why":"status","place":"registry.example","status":503,"Layer":9,"own":"`+canary+`"}]}`), &r)
	if err != nil {
		t.Fatal(err)
	}
	p := newPullError("app", &layerError{2, 3, &failed{&r}}, []string{"registry.example"})
	const want = "image app: layer 2 of 3: pulling or unpacking failed (a debug guest's console says how); " +
		"layer 2 of 3: registry registry.example: answers HTTP 503 Service Unavailable"
	if got := p.Public(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r.Causes = make([]cause, 1000)
	if n := strings.Count(newPullError("app", &failed{&r}, nil).Public(), ";"); n >= maxCauses {
		t.Errorf("%d causes", n+1)
	}
}

// Each kind has words, and what no kind fits tells nothing.
func TestEveryKindHasWords(t *testing.T) {
	for _, err := range []error{
		errors.New(canary), os.ErrPermission, mark(errors.New(canary), errKey), mark(errors.New(canary), errConfig), mark(errors.New(canary), errUnpack),
		mark(errors.New(canary), errKilled), context.DeadlineExceeded, context.Canceled,
		&registry.SourceError{Host: "registry.example", Err: errors.New(canary)},
		&registry.SourceError{Host: "registry.example", Err: registry.ErrPlainHTTP},
	} {
		got := newPullError("app", err, []string{"registry.example"}).Public()
		if got == "image app: " || strings.Contains(got, canary) {
			t.Errorf("%v: %q", err, got)
		}
	}
	const text = "cdh.toml: image signature policies are not supported yet"
	if got := newPullError("app", mark(fmt.Errorf("image app: %w", told(text)), errConfig), nil).Public(); got != "image app: "+text {
		t.Errorf("%q", got)
	}
	away := newPullError("app", &layerError{1, 2, layerkey.ErrTrusteeUnavailable}, nil)
	away.trustee = "https://trustee.example:8080"
	if got := away.Public(); !strings.HasSuffix(got, "trustee not available (the pod's initdata names https://trustee.example:8080: is it up, and can the pod reach it?)") {
		t.Errorf("%q", got)
	}
}
