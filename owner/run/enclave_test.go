package run

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/owner/gramine"
	"github.com/cofferproject/coffer/owner/seal"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/test/imagetest"
)

const enclavePod = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a.conf: "level=very"}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: app
    image: REGISTRY/app:1
    command: [server, --port, "80"]
    resources: {limits: {memory: 100Mi}}
    volumeMounts: [{name: c, mountPath: /etc/app}, {name: d, mountPath: /data}]
  volumes: [{name: c, configMap: {name: settings}}, {name: d, emptyDir: {}}]
`

// sealedPod seals a pod without a trustee, and gives the file and the sources of
// its images.
func sealedPod(t *testing.T, reg *imagetest.Registry, manifest string) (file string, images ImageOptions) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "registries.conf")
	plain := filepath.Join(dir, "pod.yaml")
	for name, text := range map[string]string{
		conf:  "[[registry]]\nlocation = \"" + reg.Host() + "\"\ninsecure = true\n",
		plain: strings.ReplaceAll(manifest, "REGISTRY", reg.Host()),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images = ImageOptions{RegistriesFile: conf}
	src, err := loadSources(images)
	if err != nil {
		t.Fatal(err)
	}
	p, err := loadPod(plain)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, c := range p.All() {
		names[c.Image] = c.Image
	}
	found, err := src.resolve(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	policy, _, err := spec.Build(p, found, spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const ca = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
	s, err := seal.Make(policy, seal.Settings{KBSURL: "https://trustee:8080", KBSCert: ca}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := seal.Annotate(p, s.Documents[initdata.SHA256], seal.Size{})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "sealed.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, images
}

// TestWriteEnclave: every file that the manifest trusts is there and has the digest
// that it says, and there is no other file.
func TestWriteEnclave(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	base := imagetest.Tar(t,
		imagetest.Entry{Name: "usr/bin/server", Data: "the program", Mode: 0o755}, imagetest.Entry{Name: "bin", Type: tar.TypeSymlink, Link: "usr/bin"},
		imagetest.Entry{Name: "etc/passwd", Data: "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"}, imagetest.Entry{Name: "etc/old", Data: "old"})
	top := imagetest.Tar(t, imagetest.Entry{Name: "etc/.wh.old"}, imagetest.Entry{Name: "etc/new", Data: "new"})
	reg.Image(t, "1", `{"User":"web","Env":["PATH=/usr/local/bin:/bin"],"WorkingDir":"/srv"}`, base.Gzip(t), top)
	file, images := sealedPod(t, reg, enclavePod)
	libos := filepath.Join(t.TempDir(), "libsysdb.so")
	if err := os.WriteFile(libos, []byte("the library OS"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "enclave")
	o := &EnclaveOptions{File: file, Images: images, LibOS: libos, Runtime: filepath.Dir(libos), Out: out, Persist: map[string]string{"d": "mrsigner"}}
	e, err := WriteEnclave(t.Context(), o, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var m gramine.Manifest
	if _, err := toml.DecodeFile(e.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if m.LibOS.Entrypoint != "/bin/server" || m.Loader.UID != 33 || m.Loader.GID != 34 || m.FS.StartDir != "/srv" || m.Loader.Argv[2] != "80" || e.EnclaveSize != "256M" {
		t.Errorf("%+v %+v", m, e)
	}
	want := map[string]bool{"container.manifest": true}
	for _, f := range m.SGX.TrustedFiles {
		name := strings.TrimPrefix(f.URI, "file:")
		want[name] = true
		b, err := os.ReadFile(filepath.Join(out, name))
		if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != f.SHA256 {
			t.Errorf("%s: %v, or another digest", name, err)
		}
	}
	for _, name := range []string{"rootfs/bin/server", "rootfs/usr/bin/server", "rootfs/etc/new", "volumes/c/a.conf", "runtime/libsysdb.so", "libos/libsysdb.so", "hosts"} {
		if !want[name] {
			t.Errorf("%s is not trusted", name)
		}
	}
	err = fs.WalkDir(os.DirFS(out), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !want[p] {
			t.Errorf("%s is there, and nobody names it", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	for want, change := range map[string]func(o *EnclaveOptions){
		"file exists":        func(o *EnclaveOptions) { o.Out = out },
		"--container side":   func(o *EnclaveOptions) { o.Container = "side" },
		"--libos":            func(o *EnclaveOptions) { o.LibOS += ".none" },
		"not sealed":         func(o *EnclaveOptions) { o.File = filepath.Join(filepath.Dir(file), "pod.yaml") },
		"no volume none":     func(o *EnclaveOptions) { o.Persist = map[string]string{"none": "mrsigner"} },
		"seal it again":      func(o *EnclaveOptions) { o.File = changed(t, file) },
		"context canceled":   nil,
		"not a regular file": func(o *EnclaveOptions) { o.LibOS = filepath.Dir(libos) },
	} {
		o := *o
		o.Out = filepath.Join(t.TempDir(), "enclave")
		ctx, cancel := context.WithCancel(t.Context())
		if change == nil {
			cancel()
		} else {
			change(&o)
		}
		if _, err := WriteEnclave(ctx, &o, func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		cancel()
		if _, err := os.Stat(o.Out); o.Out != out && err == nil {
			t.Errorf("%s: something is left", want)
		}
	}
	if _, err := os.Stat(e.Manifest); err != nil {
		t.Error("a refusal took the folder away that was there")
	}
}

// changed is the sealed pod with another argument.
func changed(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "changed.yaml")
	if err := os.WriteFile(out, []byte(strings.Replace(string(b), `"80"`, `"81"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWriteEnclaveEncrypted: no plaintext of an encrypted image is written.
func TestWriteEnclaveEncrypted(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	l := imagetest.Tar(t, imagetest.Entry{Name: "usr/bin/server", Data: "the program", Mode: 0o755})
	reg.Image(t, "1", `{}`, l.Gzip(t).Encrypt(t, "kbs:///default/key/image", make([]byte, 32)))
	file, images := sealedPod(t, reg, strings.Replace(enclavePod, "[server,", "[/usr/bin/server,", 1))
	libos := filepath.Join(t.TempDir(), "libsysdb.so")
	if err := os.WriteFile(libos, []byte("the library OS"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := WriteEnclave(t.Context(), &EnclaveOptions{File: file, Images: images, LibOS: libos, Out: filepath.Join(t.TempDir(), "enclave")}, func(string) {})
	if err != nil || !e.Encrypted {
		t.Fatalf("%+v, %v", e, err)
	}
	var m gramine.Manifest
	if _, err := toml.DecodeFile(e.Manifest, &m); err != nil || m.FS.Root.KeyName != gramine.ImageKey || m.LibOS.Entrypoint != "/usr/bin/server" {
		t.Errorf("%+v, %v", m, err)
	}
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(e.Manifest), "rootfs")); err != nil || len(left) != 0 {
		t.Errorf("rootfs: %v, %v", left, err)
	}
}
