package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/ocicrypt/keywrap/keyprovider"
	pb "github.com/containers/ocicrypt/utils/keyprovider"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	guest "github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/test/imagetest"
)

const kid = "kbs:///default/key/1"

func loc(t testing.TB, s string) Location {
	t.Helper()
	l, err := ParseLocation(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// writable starts go-containerregistry's registry.
func writable(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func access(hosts ...string) Access {
	var a Access
	for _, h := range hosts {
		a.Conf.Registries = append(a.Conf.Registries, registry.Registry{Location: h, Insecure: true})
	}
	return a
}

// source makes an image of all compressions in a registry.
func source(t testing.TB) (ref string, a Access, diffIDs []digest.Digest) {
	t.Helper()
	r := imagetest.NewRegistry(t)
	one := imagetest.Tar(t, imagetest.Entry{Name: "a", Data: strings.Repeat("one", 1000)})
	two := imagetest.Tar(t, imagetest.Entry{Name: "b", Data: strings.Repeat("two", 100_000)})
	three := imagetest.Tar(t, imagetest.Entry{Name: "d", Type: tar.TypeDir}, imagetest.Entry{Name: "d/c", Data: "three"})
	r.Image(t, "v1", `{"User":"web","Cmd":["/a"]}`, one, two.Gzip(t), three.Zstd(t), two.Gzip(t))
	return r.Host() + "/team/app:v1", access(r.Host()), []digest.Digest{one.DiffID, two.DiffID, three.DiffID, two.DiffID}
}

func checkDiffIDs(t *testing.T, m ManifestState, want []digest.Digest, encrypted bool) {
	t.Helper()
	if len(m.Layers) != len(want) {
		t.Fatalf("%d layers", len(m.Layers))
	}
	for i, l := range m.Layers {
		if l.DiffID != want[i] || l.Encrypted != encrypted || encrypted && (len(l.KeyIDs) != 1 || l.KeyIDs[0] != kid) {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
}

func TestEncryptDecrypt(t *testing.T) {
	ref, a, diffIDs := source(t)
	dir := t.TempDir()
	reg := writable(t)
	a.Conf.Registries = append(a.Conf.Registries, registry.Registry{Location: reg, Insecure: true})
	key := filepath.Join(dir, "key")
	kek, made, err := MakeKey(key)
	if err != nil || !made {
		t.Fatal(err)
	}
	if st, err := os.Stat(key); err != nil || st.Mode() != 0o600 || st.Size() != 32 {
		t.Errorf("key file: %v %v", st, err)
	}
	for _, dst := range []string{"oci:" + dir + "/layout:v2", "oci-archive:" + dir + "/a.tar:v2", reg + "/x/app:v2"} {
		var progress bytes.Buffer
		res, err := Encrypt(t.Context(), loc(t, ref), loc(t, dst), kid, kek, Options{Access: a, Progress: &progress})
		if err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
		checkDiffIDs(t, res.Manifests[0], diffIDs, true)
		if strings.Count(progress.String(), "encrypted") != 3 { // the repeated layer is encrypted once
			t.Errorf("progress: %s", progress.String())
		}
		info, err := Inspect(t.Context(), loc(t, dst), &a)
		if err != nil || info.Digest != res.Digest || info.Manifests[0].Process.User != "web" {
			t.Fatalf("%s: %+v %v", dst, info, err)
		}
		if _, err := Encrypt(t.Context(), loc(t, dst), loc(t, "oci:"+dir+"/again"), kid, kek, Options{Access: a}); err == nil || !strings.Contains(err.Error(), "encrypted already") {
			t.Errorf("%s: encrypted twice: %v", dst, err)
		}
		for _, plain := range []string{"oci:" + dir + "/plain", "docker-archive:" + dir + "/plain.tar", "oci-archive:" + dir + "/plain-oci.tar"} {
			res, err := Decrypt(t.Context(), loc(t, dst), loc(t, plain), FileKey{ID: kid, File: key}, Options{Access: a})
			if err != nil {
				t.Fatalf("%s -> %s: %v", dst, plain, err)
			}
			checkDiffIDs(t, res.Manifests[0], diffIDs, false)
			info, err := Inspect(t.Context(), loc(t, plain), &a)
			if err != nil {
				t.Fatal(err)
			}
			checkDiffIDs(t, info.Manifests[0], diffIDs, false)
			_ = os.RemoveAll(dir + "/plain")
		}
		other := filepath.Join(dir, "other")
		if err := os.WriteFile(other, make([]byte, 32), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Decrypt(t.Context(), loc(t, dst), loc(t, "oci:"+dir+"/plain"), FileKey{File: other}, Options{Access: a}); err == nil || !strings.Contains(err.Error(), "not the key") {
			t.Errorf("other key: %v", err)
		}
	}
	// Encrypting again under the same tag replaces the image, others stay.
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "oci:"+dir+"/layout:v3"), kid, kek, Options{Access: a, Layers: []int{-1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), loc(t, "oci:"+dir+"/layout"), &a); err == nil || !strings.Contains(err.Error(), "several images") {
		t.Error(err)
	}
	info, err := Inspect(t.Context(), loc(t, "oci:"+dir+"/layout:v3"), &a)
	if err != nil || info.Manifests[0].Layers[0].Encrypted || !info.Manifests[0].Layers[3].Encrypted {
		t.Errorf("%+v %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".coffer-image-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestIndex(t *testing.T) {
	r := imagetest.NewRegistry(t)
	l := imagetest.Tar(t, imagetest.Entry{Name: "a", Data: "x"})
	amd := r.Image(t, "one", `{}`, l)
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.TypeOCIIndex, "manifests": []any{
		manifest.Descriptor{MediaType: manifest.TypeOCIManifest, Digest: amd, Size: int64(len(r.Get("manifests/" + string(amd)))), Platform: &manifest.Platform{OS: "linux", Architecture: "amd64"}},
		manifest.Descriptor{MediaType: manifest.TypeOCIManifest, Digest: amd, Size: 3, Platform: &manifest.Platform{OS: "unknown", Architecture: "unknown"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Put("manifests", "multi", manifest.TypeOCIIndex, b)
	a := access(r.Host())
	reg := writable(t)
	a.Conf.Registries = append(a.Conf.Registries, registry.Registry{Location: reg, Insecure: true})
	src, dst := loc(t, r.Host()+"/app:multi"), loc(t, reg+"/app:multi")
	res, err := Encrypt(t.Context(), src, dst, kid, make([]byte, 32), Options{Access: a})
	if err != nil {
		t.Fatal(err)
	}
	c, err := registry.New(a.config())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Resolve(t.Context(), dst.Ref, manifest.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil || got.IndexDigest != res.Digest {
		t.Fatal(err)
	}
	one := manifest.Platform{OS: "linux", Architecture: "amd64"}
	if res, err = Encrypt(t.Context(), src, dst, kid, make([]byte, 32), Options{Access: a, Platform: &one}); err != nil {
		t.Fatal(err)
	}
	if got, err = c.Resolve(t.Context(), dst.Ref, one); err != nil || got.IndexDigest != "" || got.ManifestDigest != res.Digest {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	ref, a, _ := source(t)
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, make([]byte, 31), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := MakeKey(short); err == nil || !strings.Contains(err.Error(), "31 bytes") {
		t.Error(err)
	}
	for _, id := range []string{"", "default/key/1", "kbs:///a/b", "kbs:///a/../b", "http://x/a/b"} {
		if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "oci:"+dir+"/x"), id, make([]byte, 32), Options{Access: a}); err == nil {
			t.Errorf("key id %q was accepted", id)
		}
	}
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "docker-archive:"+dir+"/x.tar"), kid, make([]byte, 32), Options{Access: a}); err == nil {
		t.Error("encrypted into a docker-archive")
	}
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "oci:"+dir+"/x"), kid, make([]byte, 32), Options{Access: a, Layers: []int{4}}); err == nil {
		t.Error("layer 4 of 4")
	}
	// A push goes over HTTP only where that is configured, private address or not.
	reg := writable(t)
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, reg+"/x:1"), kid, make([]byte, 32), Options{Access: a}); err == nil || !strings.Contains(err.Error(), "insecure = true") {
		t.Errorf("pushed over HTTP: %v", err)
	}
	// A changed blob in a layout is found, and nothing is written.
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "oci:"+dir+"/l"), kid, make([]byte, 32), Options{Access: a}); err != nil {
		t.Fatal(err)
	}
	blobs, _ := filepath.Glob(dir + "/l/blobs/sha256/*")
	for _, b := range blobs {
		c, _ := os.ReadFile(b)
		if len(c) > 3000 && len(c) < 6000 {
			c[100] ^= 1
			_ = os.WriteFile(b, c, 0o600)
		}
	}
	if err := os.WriteFile(dir+"/zero", make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Decrypt(t.Context(), loc(t, "oci:"+dir+"/l"), loc(t, "oci-archive:"+dir+"/out.tar"), FileKey{File: dir + "/zero"}, Options{}); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("changed blob: %v", err)
	}
	if _, err := os.Stat(dir + "/out.tar"); err == nil {
		t.Error("a failed run left an archive")
	}
}

func TestLocations(t *testing.T) {
	for in, want := range map[string]Location{
		"oci:/a/b:c":             {Kind: OCI, Path: "/a/b", Tag: "c"},
		"oci:/a:1/b":             {Kind: OCI, Path: "/a:1/b"},
		"oci-archive:x.tar":      {Kind: OCIArchive, Path: "x.tar"},
		"docker-archive:x:r/a:1": {Kind: DockerArchive, Path: "x", Tag: "r/a:1"},
		"docker://r.test/a:1":    {Kind: Registry, Ref: reference.Reference{Domain: "r.test", Path: "a", Tag: "1"}},
	} {
		if got, err := ParseLocation(in); err != nil || got != want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "oci:", "./x", "/abs", "OCI:x y"} {
		if _, err := ParseLocation(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestServer(t *testing.T) {
	ref, a, diffIDs := source(t)
	dir := t.TempDir()
	kek := bytes.Repeat([]byte{1}, 32)
	if _, err := Encrypt(t.Context(), loc(t, ref), loc(t, "oci-archive:"+dir+"/a.tar:v1"), kid, kek, Options{Access: a}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/key", kek, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Decrypt(t.Context(), loc(t, "oci-archive:"+dir+"/a.tar"), loc(t, "docker-archive:"+dir+"/d.tar"), FileKey{File: dir + "/key"}, Options{}); err != nil {
		t.Fatal(err)
	}
	s := NewServer()
	defer s.Close()
	if _, err := s.Add(t.Context(), "local/enc", "v1", loc(t, "oci-archive:"+dir+"/a.tar")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), "local/plain", "v1", loc(t, "docker-archive:"+dir+"/d.tar")); err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	defer h.Close()
	host := strings.TrimPrefix(h.URL, "http://")
	la := access(host)
	c, err := registry.New(la.config())
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"local/enc", "local/plain"} {
		l := loc(t, host+"/"+repo+":v1")
		r, err := c.Resolve(t.Context(), l.Ref, manifest.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range r.Manifest.Layers {
			if r.Config.RootFS.DiffIDs[i] != diffIDs[i] {
				t.Error("diffID changed")
			}
			b, err := c.Blob(t.Context(), l.Ref, d, "layer")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, b); err != nil {
				t.Errorf("%s layer %d: %v", repo, i, err)
			}
			_ = b.Close()
		}
	}
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("PUT", "/v2/x/manifests/y", nil))
	if rec.Code != 405 {
		t.Errorf("took a PUT: %d", rec.Code)
	}
}

// provide starts a key provider and gives a client.
func provide(t *testing.T, k *KeyProvider) pb.KeyProviderServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return pb.NewKeyProviderServiceClient(c)
}

func wrapInput(t *testing.T, param string, opts []byte) *pb.KeyProviderKeyWrapProtocolInput {
	t.Helper()
	b, err := json.Marshal(map[string]any{"op": "keywrap", "keywrapparams": map[string]any{
		"ec": map[string]any{"Parameters": map[string]any{"attestation-agent": []any{[]byte(param)}}, "DecryptConfig": map[string]any{"Parameters": nil}}, "optsdata": opts}, "keyunwrapparams": map[string]any{"dc": nil, "annotation": nil}})
	if err != nil {
		t.Fatal(err)
	}
	return &pb.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: b}
}

func TestKeyProvider(t *testing.T) {
	dir := t.TempDir()
	kek := bytes.Repeat([]byte{9}, 32)
	file := filepath.Join(dir, "default/key/1")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, kek, 0o600); err != nil {
		t.Fatal(err)
	}
	opts := []byte(`{"symkey":"x"}`)
	foreign := filepath.Join(dir, "foreign")
	if err := os.Symlink(file, foreign); err != nil { // nor through a link
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		k     *KeyProvider
		param string
		fails string
	}{
		"folder":         {&KeyProvider{Keys: DirKeys(dir)}, "keyid=" + kid, ""},
		"id without kbs": {&KeyProvider{Keys: DirKeys(dir)}, "keyid=default/key/1", ""},
		"default id":     {&KeyProvider{Keys: FileKey{File: file}, DefaultID: kid}, "", ""},
		"keypath":        {&KeyProvider{}, "keypath=" + file + "::keyid=" + kid + "::algorithm=A256GCM", ""},
		"ctr":            {&KeyProvider{Keys: DirKeys(dir)}, "keyid=" + kid + "::algorithm=A256CTR", "A256CTR"},
		"sample":         {&KeyProvider{Keys: DirKeys(dir)}, "sample=true::keyid=" + kid, "not supported"},
		"no key":         {&KeyProvider{}, "keyid=" + kid, "no key"},
		"no id":          {&KeyProvider{Keys: FileKey{File: file}}, "", "no keyid"},
		"missing":        {&KeyProvider{Keys: DirKeys(dir)}, "keyid=kbs:///default/key/2", "no such file"},
		"outside":        {&KeyProvider{Keys: DirKeys(filepath.Dir(file))}, "keyid=kbs:///../key/1", "segment"},
		"not ours":       {&KeyProvider{}, "keypath=" + foreign + "::keyid=" + kid, "not a file of the user"},
		"other id":       {&KeyProvider{Keys: FileKey{ID: "kbs:///a/b/c", File: file}}, "keyid=" + kid, "not for"},
	} {
		t.Run(name, func(t *testing.T) {
			client := provide(t, c.k)
			out, err := client.WrapKey(t.Context(), wrapInput(t, c.param, opts))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			raw := out.GetKeyProviderKeyWrapProtocolOutput()
			if !bytes.HasPrefix(raw, []byte(`{"keywrapresults":{"annotation":[123,`)) {
				t.Errorf("not an array of numbers: %.60s", raw)
			}
			var res keyprovider.KeyProviderKeyWrapProtocolOutput // as Go's ocicrypt reads it
			if err := json.Unmarshal(raw, &res); err != nil {
				t.Fatal(err)
			}
			p, err := guest.ParsePacket(res.KeyWrapResults.Annotation)
			if err != nil || p.KID != kid {
				t.Fatalf("%+v %v", p, err)
			}
			if got, err := p.Open(kek); err != nil || !bytes.Equal(got, opts) {
				t.Error(err)
			}
			if c.k.Keys == nil {
				return
			}
			in, err := json.Marshal(map[string]any{"op": "keyunwrap", "keywrapparams": map[string]any{"ec": nil, "optsdata": nil},
				"keyunwrapparams": map[string]any{"dc": map[string]any{"Parameters": map[string]any{}}, "annotation": base64.StdEncoding.EncodeToString(res.KeyWrapResults.Annotation)}})
			if err != nil {
				t.Fatal(err)
			}
			back, err := client.UnWrapKey(t.Context(), &pb.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: in})
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(back.GetKeyProviderKeyWrapProtocolOutput(), &res); err != nil || !bytes.Equal(res.KeyUnwrapResults.OptsData, opts) {
				t.Error(err)
			}
		})
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	if err := (&KeyProvider{}).Serve(t.Context(), l); err == nil {
		t.Error("served on every address")
	}
}
