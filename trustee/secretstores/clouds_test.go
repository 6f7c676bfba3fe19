package secretstores

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/secretstore/fakecloud"
)

// world is a store of one cloud, against its fake.
type world struct {
	cloud           *fakecloud.Cloud
	spec            string // without ca
	versions        [2]string
	numbered        bool
	binary          bool   // takes bytes
	badCredentials  string // spec with others
	throttled       string // answer
	throttledStatus int
}

const (
	uuid1, uuid2 = "11111111-aaaa-bbbb-cccc-000000000001", "11111111-aaaa-bbbb-cccc-000000000002"
	hex1, hex2   = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
)

func worlds(t *testing.T) map[string]*world {
	aws, gcp, azure, ali := fakecloud.StartAWS(t), fakecloud.StartGCP(t), fakecloud.StartAzure(t), fakecloud.StartAliyun(t)
	creds := func(id, secret string) string {
		return fakecloud.File(t, "credentials", "[default]\naws_access_key_id = "+id+"\naws_secret_access_key = "+secret+"\n")
	}
	app := "&tenant-id=" + azure.Tenant + "&client-id=" + azure.Client + "&login-endpoint=" + azure.URL + "&client-secret-file="
	return map[string]*world{
		"aws": {aws.Cloud, "aws:eu-central-1?endpoint=" + aws.URL + "&credentials-file=" + creds(aws.Key.ID, aws.Key.Secret), [2]string{uuid1, uuid2}, false, true,
			"aws:eu-central-1?endpoint=" + aws.URL + "&credentials-file=" + creds(aws.Key.ID, "another"), `{"__type":"ThrottlingException","message":"Rate exceeded"}`, 400},
		"aws, the machine's role": {aws.Cloud, "aws:eu-central-1?endpoint=" + aws.URL + "&metadata=imdsv2&metadata-endpoint=" + aws.URL, [2]string{uuid1, uuid2}, false, true, "", `x`, 500},
		"gcp": {gcp.Cloud, "gcp:p?endpoint=" + gcp.URL + "&token-endpoint=" + gcp.URL + "/token&credentials-file=" + gcp.KeyFile(t), [2]string{"1", "2"}, true, true,
			"gcp:p?endpoint=" + gcp.URL + "&token-endpoint=" + gcp.URL + "/token&credentials-file=" + fakecloud.StartGCP(t).KeyFile(t), `{"error":{"status":"RESOURCE_EXHAUSTED"}}`, 429},
		"gcp, the machine's account": {gcp.Cloud, "gcp:p?endpoint=" + gcp.URL + "&metadata=gce&metadata-endpoint=" + gcp.URL, [2]string{"1", "2"}, true, true, "", ``, 503},
		"azure": {azure.Cloud, "azure:" + azure.URL + "?x=" + app + fakecloud.File(t, "secret", azure.Secret), [2]string{hex1, hex2}, false, false,
			"azure:" + azure.URL + "?x=" + app + fakecloud.File(t, "secret", "another"), `{"error":{"code":"Throttled"}}`, 429},
		"azure, the machine's identity": {azure.Cloud, "azure:" + azure.URL + "?metadata=imds&metadata-endpoint=" + azure.URL, [2]string{hex1, hex2}, false, false, "", ``, 503},
		"aliyun": {ali.Cloud, "aliyun:eu-central-1?endpoint=" + ali.URL + "&access-key-id-file=" + fakecloud.File(t, "id", ali.ID) + "&access-key-secret-file=" + fakecloud.File(t, "key", ali.Secret), [2]string{"v1", "v2"}, false, true,
			"aliyun:eu-central-1?endpoint=" + ali.URL + "&access-key-id-file=" + fakecloud.File(t, "id", ali.ID) + "&access-key-secret-file=" + fakecloud.File(t, "key", "another"), `{"Code":"Throttling.User"}`, 400},
	}
}

func open(t *testing.T, text, ca string) secretstore.Store {
	t.Helper()
	if ca != "" {
		ca = "&ca=" + ca
	}
	spec, err := secretstore.ParseSpec("s=" + strings.Replace(text, "x=&", "", 1) + "&namespaces=n" + ca)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestClouds holds every cloud's store to the same.
func TestClouds(t *testing.T) {
	for name, w := range worlds(t) {
		t.Run(name, func(t *testing.T) { w.try(t) })
	}
}

func (w *world) try(t *testing.T) {
	s := open(t, w.spec, w.cloud.CA(t))
	key := "db-" + strings.ToLower(strings.NewReplacer("/", "", "_", "").Replace(t.Name()[len("TestClouds/"):]))
	key = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r == '-' {
			return r
		}
		return -1
	}, key)
	first := w.cloud.Put(key, fakecloud.Version{ID: w.versions[0], Value: []byte(`{"password":"hunter2","port":5432}`)})
	get := func(want secretstore.Want) (string, error) {
		t.Helper()
		want.Name = key
		if err := s.Check(want); err != nil {
			t.Fatal(err)
		}
		out, err := s.Fetch(t.Context(), want)
		if err != nil {
			if strings.Contains(err.Error(), "hunter") {
				t.Errorf("the secret is in the error: %v", err)
			}
			return "", err
		}
		if s.Numbered() != w.numbered || w.numbered == (out.Number == 0) || out.Version == "" {
			t.Errorf("version %q, number %d", out.Version, out.Number)
		}
		return string(out.Value), nil
	}
	if got, err := get(secretstore.Want{}); err != nil || got != string(first.Value) {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err := get(secretstore.Want{Field: "password"}); err != nil || got != "hunter2" {
		t.Errorf("a field: %q, %v", got, err)
	}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	_, err := get(secretstore.Want{Field: "port"})
	is("a field that is no text", err, secretstore.ErrMalformed)
	_, err = get(secretstore.Want{Field: "user"})
	is("a field that is not there", err, secretstore.ErrAbsent)
	second := w.cloud.Put(key, fakecloud.Version{ID: w.versions[1], Value: []byte("new\x00\xff"), Binary: true})
	if !w.binary {
		second.Value = []byte("new")
	}
	if got, err := get(secretstore.Want{}); err != nil || got != string(second.Value) {
		t.Errorf("the new version: %q, %v", got, err)
	}
	_, err = get(secretstore.Want{Field: "password"})
	is("a field of what is no object", err, secretstore.ErrMalformed)
	if got, err := get(secretstore.Want{Version: w.versions[0]}); err != nil || got != string(first.Value) {
		t.Errorf("the first version: %q, %v", got, err)
	}
	second.Disabled = true
	_, err = get(secretstore.Want{})
	is("disabled", err, secretstore.ErrDeleted)
	second.Disabled = false
	out, err := s.Fetch(t.Context(), secretstore.Want{Name: "nothing"})
	is("absent", err, secretstore.ErrAbsent)
	if out != nil {
		t.Error("something of nothing")
	}
	w.faults(t, get, is)
	// Tokens that were taken back, and the machine's credentials after their end.
	w.cloud.Revoke()
	_, err = get(secretstore.Want{})
	if err != nil {
		is("after the token was taken back", err, secretstore.ErrRefused)
		if got, err := get(secretstore.Want{}); err != nil || got != string(second.Value) {
			t.Errorf("after another login: %q, %v", got, err)
		}
	}
	if w.badCredentials != "" {
		s = open(t, w.badCredentials, w.cloud.CA(t))
		_, err = get(secretstore.Want{})
		is("other credentials", err, secretstore.ErrRefused)
	}
	s = open(t, w.spec, "") // the system's authorities, which do not know the fake's
	_, err = get(secretstore.Want{})
	is("an authority that nobody named", err, secretstore.ErrAway)
	for _, bad := range []string{"", "a b", "../x", "a?x", "a#x", strings.Repeat("a", 600), "a\n"} {
		if s.Check(secretstore.Want{Name: bad}) == nil && bad != "../x" {
			t.Errorf("the name %q is taken", bad)
		}
		if bad != "" && s.Check(secretstore.Want{Name: key, Version: bad}) == nil && bad != "../x" {
			t.Errorf("the version %q is taken", bad)
		}
	}
}

func (w *world) faults(t *testing.T, get func(secretstore.Want) (string, error), is func(string, error, error)) {
	t.Helper()
	for what, tc := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"throttled": {w.throttledStatus, w.throttled, secretstore.ErrAway}, "broken": {500, "", secretstore.ErrAway}, "garbage": {200, "<html>", secretstore.ErrMalformed},
		"empty object": {200, "{}", secretstore.ErrMalformed}, "forbidden": {403, "{}", secretstore.ErrRefused}, "moved": {302, "", secretstore.ErrRefused},
		"huge": {200, strings.Repeat("x", secretstore.MaxAnswer+1), secretstore.ErrMalformed},
	} {
		w.cloud.Fail(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Location", "https://elsewhere.example/")
			rw.WriteHeader(tc.status)
			_, _ = io.WriteString(rw, tc.body)
			return true
		})
		_, err := get(secretstore.Want{})
		is(what, err, tc.want)
	}
	w.cloud.Fail(nil)
}

// TestMachineCredentialsEnd uses a machine's credentials for their life, and then gets
// others.
func TestMachineCredentialsEnd(t *testing.T) {
	for name, w := range worlds(t) {
		if !strings.Contains(name, "machine") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := open(t, w.spec, w.cloud.CA(t))
			w.cloud.Put("k", fakecloud.Version{ID: w.versions[0], Value: []byte("x")})
			at := func() int {
				return w.cloud.Calls("security-credentials/coffer") + w.cloud.Calls("/token") - w.cloud.Calls("/latest/api/token")
			}
			before := at()
			for range 3 {
				if _, err := s.Fetch(t.Context(), secretstore.Want{Name: "k"}); err != nil {
					t.Fatal(err)
				}
			}
			if n := at() - before; n != 1 {
				t.Errorf("credentials were got %d times for three secrets", n)
			}
		})
	}
}

// TestAzureExpiry refuses what the vault says has expired, and gives all the same.
func TestAzureExpiry(t *testing.T) {
	w := worlds(t)["azure"]
	s := open(t, w.spec, w.cloud.CA(t))
	w.cloud.Put("k", fakecloud.Version{ID: hex1, Value: []byte("x"), Expires: time.Now().Add(-time.Minute)})
	if _, err := s.Fetch(t.Context(), secretstore.Want{Name: "k"}); !errors.Is(err, secretstore.ErrDeleted) {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := fakecloud.File(t, "f", "x")
	for _, text := range []string{
		"nothing:x?a=b", "aws:Frankfurt?credentials-file=" + f, "aws:eu-central-1?ca=" + f, "aws:eu-central-1?metadata=imdsv1", "aws:eu-central-1?metadata=imdsv2&credentials-file=" + f, "aws:eu-central-1?credentials-file=" + f + "&profile=x",
		"aws:eu-central-1?credentials-file=" + f + "&endpoint=http://example.com", "aws:eu-central-1?metadata=imdsv2&metadata-endpoint=http://example.com", "gcp:P/x?credentials-file=" + f, "gcp:p?endpoint=https://x", "gcp:p?metadata=gke",
		"gcp:p?credentials-file=" + f + "&token-endpoint=http://example.com", "azure:https://v/x?metadata=imds", "azure:http://v?metadata=imds", "azure:https://v?metadata=imds&tenant-id=x", "azure:https://v?tenant-id=x&client-id=y&client-secret-file=" + f,
		"azure:https://v?metadata=x", "aliyun:x?access-key-id-file=" + f + "&access-key-secret-file=" + f, "aliyun:eu-central-1?access-key-id-file=" + f,
	} {
		spec, err := secretstore.ParseSpec("s=" + text + "&namespaces=n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	spec, err := secretstore.ParseSpec("s=gcp:p?credentials-file=" + f + "&namespaces=n")
	if err != nil {
		t.Fatal(err)
	}
	if spec.Token = "inline"; true {
		if _, err := Open(t.Context(), spec); err == nil {
			t.Error("a token for a store that takes none")
		}
	}
}
