// Package interop checks Coffer against other people's tools.
package interop

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
	"github.com/cofferproject/coffer/owner/image"
	"github.com/cofferproject/coffer/test/imagetest"
)

const kid = "kbs:///default/key/1"

var amd64 = manifest.Platform{OS: "linux", Architecture: "amd64"}

// skopeo gives Debian 13's skopeo, fetched once.
var skopeo = sync.OnceValues(func() (string, error) {
	cache := os.Getenv("COFFER_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "coffer")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "./skopeo.sh", filepath.Join(cache, "skopeo"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], nil
})

type rig struct {
	t      *testing.T
	dir    string
	env    []string
	access image.Access
	host   string // writable registry
	kek    []byte
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getenv("COFFER_E2E") != "1" {
		t.Skip("fetches Debian 13's skopeo: set COFFER_E2E=1 (make test does)")
	}
	r := &rig{t: t, dir: t.TempDir()}
	key := filepath.Join(r.dir, "default/key/1")
	if err := os.MkdirAll(filepath.Dir(key), 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.kek, _, err = image.MakeKey(key); err != nil {
		t.Fatal(err)
	}
	addr := r.provider()
	conf := filepath.Join(r.dir, "ocicrypt.json")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `{"key-providers":{"attestation-agent":{"grpc":%q}}}`, addr), 0o600); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(ggcr.New(ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(s.Close)
	r.host = strings.TrimPrefix(s.URL, "http://")
	r.access.Conf.Registries = []registry.Registry{{Location: r.host, Insecure: true}}
	// HOME and the configuration are ours: the user's are neither read nor needed.
	r.env = []string{"HOME=" + r.dir, "XDG_RUNTIME_DIR=" + r.dir, "TMPDIR=" + r.dir, "PATH=/usr/bin:/bin", "OCICRYPT_KEYPROVIDER_CONFIG=" + conf}
	if err := os.WriteFile(filepath.Join(r.dir, "registries.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// provider starts `coffer image keyprovider`'s server.
func (r *rig) provider() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	k := &image.KeyProvider{Keys: image.DirKeys(r.dir), Log: slog.New(slog.DiscardHandler)}
	go func() { done <- k.Serve(ctx, l) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	return l.Addr().String()
}

func (r *rig) skopeo(args ...string) {
	r.t.Helper()
	exe, err := skopeo()
	if err != nil {
		r.t.Fatal("getting skopeo: ", err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, append([]string{"--insecure-policy", "--registries-conf", filepath.Join(r.dir, "registries.conf")}, args...)...)
	cmd.Env = r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// image puts an image of all compressions into the registry.
func (r *rig) image(name string) (diffIDs []digest.Digest) {
	r.t.Helper()
	src := imagetest.NewRegistry(r.t)
	one := imagetest.Tar(r.t, imagetest.Entry{Name: "a", Data: strings.Repeat("one", 1000)})
	two := imagetest.Tar(r.t, imagetest.Entry{Name: "b", Data: strings.Repeat("two", 500_000)})
	three := imagetest.Tar(r.t, imagetest.Entry{Name: "d", Type: tar.TypeDir}, imagetest.Entry{Name: "d/c", Data: "three"})
	src.Image(r.t, "v1", `{"User":"web"}`, one, two.Gzip(r.t), three.Zstd(r.t))
	r.skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+src.Host()+"/team/app:v1", "docker://"+r.host+"/"+name)
	return []digest.Digest{one.DiffID, two.DiffID, three.DiffID}
}

func (r *rig) location(s string) image.Location {
	r.t.Helper()
	l, err := image.ParseLocation(s)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// guestReads pulls and decrypts an image by the guest's packages and checks every
// layer's content.
func (r *rig) guestReads(name string, want []digest.Digest, encrypted bool) {
	r.t.Helper()
	c, err := registry.New(registry.Config{Conf: r.access.Conf})
	if err != nil {
		r.t.Fatal(err)
	}
	ref := r.location(r.host + "/" + name).Ref
	img, err := c.Resolve(r.t.Context(), ref, amd64)
	if err != nil {
		r.t.Fatal(err)
	}
	if fmt.Sprint(img.Config.RootFS.DiffIDs) != fmt.Sprint(want) {
		r.t.Errorf("diffIDs %v, expected %v", img.Config.RootFS.DiffIDs, want)
	}
	for i, d := range img.Manifest.Layers {
		lt, err := manifest.ParseLayerType(d.MediaType)
		if err != nil || lt.Encrypted != encrypted {
			r.t.Fatalf("layer %d: %s %v", i, d.MediaType, err)
		}
		blob, err := c.Blob(r.t.Context(), ref, d, "layer")
		if err != nil {
			r.t.Fatal(err)
		}
		defer blob.Close()
		src := io.Reader(blob)
		if encrypted {
			pub, err := ocicrypt.ParsePublicOptions(d.Annotations)
			if err != nil {
				r.t.Fatal(err)
			}
			priv, err := ocicrypt.UnwrapOptions(r.t.Context(), d.Annotations, kek(r.kek))
			if err != nil {
				r.t.Fatal(err)
			}
			if src, err = ocicrypt.NewReader(blob, pub, priv); err != nil {
				r.t.Fatal(err)
			}
		}
		if _, err := unpack.Layer(src, fmt.Sprint("layer ", i), want[i], layerstream.NewEncoder(io.Discard), unpack.Limits{}); err != nil {
			r.t.Errorf("%s: %v", name, err)
		}
	}
}

type kek []byte

func (k kek) UnwrapKey(_ context.Context, packet []byte) ([]byte, error) {
	p, err := ocicrypt.ParsePacket(packet)
	if err != nil {
		return nil, err
	}
	if p.KID != kid {
		return nil, fmt.Errorf("key %s, expected %s", p.KID, kid)
	}
	return p.Open(k)
}

// What skopeo encrypts with our key provider, the guest decrypts.
func TestSkopeoEncrypts(t *testing.T) {
	r := newRig(t)
	diffIDs := r.image("plain:v1")
	r.guestReads("plain:v1", diffIDs, false)
	for name, param := range map[string]string{
		"by-id":   "keyid=" + kid,
		"by-path": "keypath=" + filepath.Join(r.dir, "default/key/1") + "::keyid=" + kid + "::algorithm=A256GCM",
	} {
		r.skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--encryption-key", "provider:attestation-agent:"+param,
			"docker://"+r.host+"/plain:v1", "docker://"+r.host+"/"+name+":v1")
		r.guestReads(name+":v1", diffIDs, true)
		info, err := image.Inspect(t.Context(), r.location(r.host+"/"+name+":v1"), &r.access)
		if err != nil || len(info.Manifests[0].Layers[0].KeyIDs) != 1 || info.Manifests[0].Layers[0].KeyIDs[0] != kid {
			t.Errorf("inspect: %+v %v", info, err)
		}
		// And our own decrypt reads it as well.
		if _, err := image.Decrypt(t.Context(), r.location(r.host+"/"+name+":v1"), r.location(r.host+"/"+name+":plain"), image.DirKeys(r.dir), image.Options{Access: r.access}); err != nil {
			t.Error(err)
		}
		r.guestReads(name+":plain", diffIDs, false)
	}
}

// What coffer encrypts, skopeo decrypts to layers with the original diffIDs.
func TestSkopeoDecrypts(t *testing.T) {
	r := newRig(t)
	diffIDs := r.image("plain:v1")
	for _, dst := range []string{r.host + "/enc:v1", "oci:" + r.dir + "/enc:v1", "oci-archive:" + r.dir + "/enc.tar:v1"} {
		if _, err := image.Encrypt(t.Context(), r.location(r.host+"/plain:v1"), r.location(dst), kid, r.kek, image.Options{Access: r.access}); err != nil {
			t.Fatal(err)
		}
		from := dst
		if !strings.HasPrefix(dst, "oci") {
			from = "docker://" + dst
			r.guestReads("enc:v1", diffIDs, true)
		}
		out := filepath.Join(r.dir, "out-"+strings.NewReplacer("/", "-", ":", "-").Replace(dst))
		r.skopeo("copy", "--src-tls-verify=false", "--decryption-key", "provider:attestation-agent:x", from, "dir:"+out)
		r.checkDir(out, diffIDs)
	}
}

// checkDir reads what skopeo wrote: a manifest and blobs by digest.
func (r *rig) checkDir(dir string, want []digest.Digest) {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	doc, err := manifest.Parse(b, "")
	if err != nil {
		r.t.Fatal(err)
	}
	var cfg manifest.Config
	if b, err = os.ReadFile(filepath.Join(dir, doc.Manifest.Config.Digest.Hex())); err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cfg); err != nil || fmt.Sprint(cfg.RootFS.DiffIDs) != fmt.Sprint(want) {
		r.t.Errorf("diffIDs %v, expected %v", cfg.RootFS.DiffIDs, want)
	}
	for i, l := range doc.Manifest.Layers {
		f, err := os.Open(filepath.Join(dir, l.Digest.Hex()))
		if err != nil {
			r.t.Fatal(err)
		}
		defer f.Close()
		if lt, err := manifest.ParseLayerType(l.MediaType); err != nil || lt.Encrypted {
			r.t.Errorf("layer %d is %s", i, l.MediaType)
		}
		if _, err := unpack.Layer(f, fmt.Sprint("layer ", i), want[i], layerstream.NewEncoder(io.Discard), unpack.Limits{}); err != nil {
			r.t.Error(err)
		}
	}
}
