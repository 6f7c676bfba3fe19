package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
	apiseal "github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/spec"
)

const (
	ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

	source = `# my pod
apiVersion: v1
kind: Pod
metadata:
  # its name
  name: web   # here
spec:
  containers:
  - name: app
    image: nginx
`
)

func sealed(t *testing.T, text string) (*pod.Pod, map[string]*spec.ResolvedImage, *Sealed) {
	t.Helper()
	p, err := pod.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("1", 64)
	images := map[string]*spec.ResolvedImage{"nginx": {
		Reference: "docker.io/library/nginx@" + digest, ManifestDigest: digest,
		Config: &manifest.Config{Config: manifest.ContainerConfig{Cmd: []string{"nginx"}}},
	}}
	policy, _, err := spec.Build(p, images, spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Make(policy, Settings{KBSURL: "https://10.0.2.2:8080", KBSCert: ca, Image: initdata.CDHImage{
		ExtraRootCertificates: []string{ca}, AuthenticatedRegistryCredentialsURI: "kbs:///default/credentials/registry",
		RegistryConfig: &initdata.RegistryConfig{Registry: []initdata.Registry{{Prefix: "docker.io", Location: "docker.io", Mirror: []initdata.Mirror{{Location: "10.0.2.2:5000", Insecure: true}}}}},
	}}, Algorithms{initdata.SHA256, initdata.SHA384})
	if err != nil {
		t.Fatal(err)
	}
	return p, images, s
}

func TestDocumentsHoldWhatTheGuestNeeds(t *testing.T) {
	_, _, s := sealed(t, source)
	_, _, again := sealed(t, source)
	if !bytes.Equal(s.Documents[initdata.SHA256], again.Documents[initdata.SHA256]) {
		t.Error("the same pod gave other bytes")
	}
	if len(s.Digests["sha256"]) != 64 || len(s.Digests["sha384"]) != 96 {
		t.Errorf("%v", s.Digests)
	}
	d, err := initdata.Parse(s.Documents[initdata.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := podpolicy.Parse([]byte(d.Data[podpolicy.DataKey])); err != nil {
		t.Error(err)
	}
	aa, err := d.AA()
	if err != nil || aa.TokenConfigs.KBS.URL != "https://10.0.2.2:8080" || aa.TokenConfigs.KBS.Cert != ca {
		t.Errorf("%+v %v", aa, err)
	}
	if aa.BindChannel || aa.Identities != nil || strings.Contains(d.Data[initdata.KeyAA], "bind_channel") || strings.Contains(d.Data[initdata.KeyAA], "identities") {
		t.Errorf("what guests of before do not know, and nobody asked for: %+v", aa)
	}
	if aa.EventlogConfig != nil {
		t.Errorf("run-time events nobody asked for: %+v", aa.EventlogConfig)
	}
	p, err := podpolicy.Parse([]byte(d.Data[podpolicy.DataKey]))
	if err != nil {
		t.Fatal(err)
	}
	recording, err := Make(p, Settings{KBSURL: "https://10.0.2.2:8080", KBSCert: ca, EventLog: true, BindChannel: true, Identities: []string{"web", "db"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := initdata.Parse(recording.Documents[initdata.SHA256]); err != nil {
		t.Error(err)
	} else if aa, err := d.AA(); err != nil || aa.EventlogConfig == nil || !aa.EventlogConfig.EnableEventlog || aa.EventlogConfig.InitPCR != nil || !aa.BindChannel || !slices.Equal(aa.Identities, []string{"db", "web"}) {
		t.Errorf("%+v %v", aa, err)
	}
	if _, err := Make(p, Settings{KBSURL: "https://10.0.2.2:8080", KBSCert: ca, Identities: []string{"no name"}}, nil); err == nil {
		t.Error("an identity that no guest can name")
	}
	cdh, err := d.CDH()
	if err != nil || cdh.KBC.Name != "cc_kbc" || cdh.KBC.KBSCert != ca || len(cdh.Image.RegistryConfig.Registry[0].Mirror) != 1 || len(cdh.Image.ExtraRootCertificates) != 1 {
		t.Errorf("%+v %v", cdh, err)
	}
}

// A pod's devices are in the document that its evidence is bound to.
func TestDevicesAreDemanded(t *testing.T) {
	p, err := pod.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	policy, _, err := spec.Build(p, map[string]*spec.ResolvedImage{"nginx": {
		Reference: "docker.io/library/nginx@sha256:" + strings.Repeat("1", 64), ManifestDigest: "sha256:" + strings.Repeat("1", 64),
		Config: &manifest.Config{Config: manifest.ContainerConfig{Cmd: []string{"nginx"}}},
	}}, spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set := Settings{KBSURL: "https://10.0.2.2:8080", KBSCert: ca, Devices: []string{"nvidia"}}
	s, err := Make(policy, set, nil)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := initdata.Parse(s.Documents[initdata.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	if l, err := doc.AdditionalDevices(); err != nil || len(l) != 1 || l[0] != "nvidia" {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := doc.AA(); err != nil { // as strictly as the guest
		t.Error(err)
	}
	for _, bad := range [][]string{{"toaster"}, {"nvidia", "nvidia"}, {"hygondcu"}} {
		set.Devices = bad
		if _, err := Make(policy, set, nil); err == nil {
			t.Errorf("%v: sealed", bad)
		}
	}
}

func TestMakeRefusesWhatTheGuestWould(t *testing.T) {
	_, _, s := sealed(t, source)
	d, _ := initdata.Parse(s.Documents[initdata.SHA256])
	policy, _ := podpolicy.Parse([]byte(d.Data[podpolicy.DataKey]))
	for _, bad := range []Settings{
		{KBSURL: "http://10.0.2.2", KBSCert: ca}, {KBSURL: "10.0.2.2:8080", KBSCert: ca}, {KBSURL: "https://u:p@h", KBSCert: ca}, {KBSURL: "https://h?x=y", KBSCert: ca},
		{KBSURL: "https://h"}, {KBSURL: "https://h", KBSCert: "x"}, {KBSURL: "https://h", KBSCert: ca + "x"},
		{KBSURL: "https://h", KBSCert: strings.ReplaceAll(ca, "CERTIFICATE", "PRIVATE KEY")},
	} {
		if _, err := Make(policy, bad, nil); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if _, err := Make(policy, Settings{KBSURL: "https://h", KBSCert: ca}, Algorithms{"md5"}); err == nil {
		t.Error("md5 was accepted")
	}
}

func TestSign(t *testing.T) {
	p, images, s := sealed(t, source)
	key, made, err := OwnerKey(t.TempDir())
	if err != nil || !made {
		t.Fatal(made, err)
	}
	sig, err := s.Sign(p, images, nil, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := apiseal.Parse(sig.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(key.Public()); err != nil {
		t.Error(err)
	}
	if got.Statement.Pod.Name != "web" || got.Statement.Initdata["sha256"] != s.Digests["sha256"] || got.Statement.Images[0].Reference != "nginx" {
		t.Errorf("%+v", got.Statement)
	}
}

func TestOwnerKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	type result struct {
		pub  string
		made bool
	}
	results := make(chan result, 8)
	for range cap(results) {
		go func() {
			key, made, err := OwnerKey(dir)
			if err != nil {
				t.Error(err)
				results <- result{}
				return
			}
			pub, err := PublicPEM(key)
			if err != nil {
				t.Error(err)
			}
			results <- result{string(pub), made}
		}()
	}
	first := <-results
	for range cap(results) - 1 {
		if r := <-results; r.pub != first.pub {
			t.Fatal("two owners' keys")
		}
	}
	path := filepath.Join(dir, KeyFile)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".owner*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OwnerKey(dir); err == nil || !strings.Contains(err.Error(), "can be read by others") {
		t.Error(err)
	}
	write := func(k any) {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(path), os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	write(p256)
	if _, made, err := OwnerKey(dir); err != nil || made {
		t.Error(made, err)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	write(p384)
	if _, _, err := OwnerKey(dir); err == nil {
		t.Error("P-384 was accepted")
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	write(ed)
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OwnerKey(dir); err == nil {
		t.Error("junk was accepted") // and not replaced by a new key
	}
}

func TestAnnotateKeepsTheText(t *testing.T) {
	sources := map[string]string{
		"block":              source,
		"no final newline":   strings.TrimSuffix(source, "\n"),
		"block annotations":  strings.Replace(source, "spec:", "  annotations:\n    # notes\n    a: b\nspec:", 1),
		"flow annotations":   strings.Replace(source, "spec:", "  annotations: {a: b}\nspec:", 1),
		"old":                strings.Replace(source, "spec:", "  annotations:\n    "+initdata.AnnotationKey+": H4sIold==\nspec:", 1),
		"old, quoted":        strings.Replace(source, "spec:", "  annotations: {x: 'y', '"+initdata.AnnotationKey+"': 'H4sIold=='}\nspec:", 1),
		"flow":               "---\n{\n  apiVersion: \"v1\", kind: Pod,\n  metadata: {\n    name: \"web\", # ü\n  },\n  spec: {containers: [{name: app, image: nginx}]},\n}\n",
		"flow on one line":   "{apiVersion: v1, kind: Pod, spec: {hostname: web, containers: [{name: app, image: nginx}]}, metadata: {name: \"web\"}}",
		"json":               `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","annotations":{"a":"b"}},"spec":{"containers":[{"name":"app","image":"nginx"}]}}`,
		"several":            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {kind: Pod}\n--- # next\n" + source + "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n",
		"wide":               "apiVersion: v1\nkind: Pod\nmetadata:\n        name: web\nspec: {containers: [{name: app, image: nginx}]}\n",
		"metadata last":      "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: app, image: nginx}]}\nmetadata:\n  name: web\n",
		"windows line ends":  strings.ReplaceAll(source, "\n", "\r\n"),
		"a document comment": "# head\n---\n# more\n" + source,
	}
	for name, text := range sources {
		t.Run(name, func(t *testing.T) {
			p, _, s := sealed(t, text)
			out, err := Annotate(p, s.Documents[initdata.SHA256], Size{MemoryMiB: 384, VCPUs: 2})
			if err != nil {
				t.Fatal(err)
			}
			again, err := pod.Parse(out)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := initdata.DecodeAnnotation(again.Annotations[initdata.AnnotationKey])
			if err != nil || !bytes.Equal(plain, s.Documents[initdata.SHA256]) {
				t.Fatal(err)
			}
			// What was there is there still, in its order.
			rest := string(out)
			for _, line := range strings.Split(text, "\n") {
				if strings.Contains(line, "H4sIold") || strings.Contains(line, "metadata") || strings.Contains(line, "annotations") {
					continue
				}
				i := strings.Index(rest, line)
				if i < 0 {
					t.Fatalf("line %q is lost from\n%s", line, out)
				}
				rest = rest[i+len(line):]
			}
			// Sealing the sealed pod gives the same text.
			p2, _, s2 := sealed(t, string(out))
			twice, err := Annotate(p2, s2.Documents[initdata.SHA256], Size{MemoryMiB: 384, VCPUs: 2})
			if err != nil || !bytes.Equal(out, twice) {
				t.Errorf("%v: a second seal changed the text:\n%s", err, twice)
			}
		})
	}
}

func TestOpenAndCheck(t *testing.T) {
	p, images, s := sealed(t, source)
	if _, ok, err := Open(p); ok || err != nil {
		t.Fatal(ok, err)
	}
	text, err := Annotate(p, s.Documents[initdata.SHA256], Size{MemoryMiB: 384, VCPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	reopen := func(text string) (*pod.Pod, *Opened) {
		p, err := pod.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		o, ok, err := Open(p)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		return p, o
	}
	p, o := reopen(string(text))
	refs, err := o.Images(p)
	if err != nil || refs["nginx"] != images["nginx"].Reference {
		t.Error(refs, err)
	}
	policy, _, err := spec.Build(p, images, o.Options())
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(policy); err != nil {
		t.Error(err)
	}
	p, o = reopen(strings.Replace(string(text), "image: nginx", "image: nginx\n    args: [-v]", 1))
	policy, _, err = spec.Build(p, images, o.Options())
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(policy); err == nil || !strings.HasPrefix(err.Error(), "containers[app].args[0]: differs from the seal") {
		t.Error(err)
	}
	p, o = reopen(strings.Replace(string(text), "name: app", "name: other", 1))
	if _, err := o.Images(p); err == nil || !strings.Contains(err.Error(), "the seal has no container other") {
		t.Error(err)
	}
	bad, err := pod.Parse([]byte(strings.Replace(source, "name: web", "name: web\n  annotations: {"+initdata.AnnotationKey+": AAAA}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Open(bad); !ok || err == nil {
		t.Error("a broken annotation was accepted")
	}
}

func FuzzAnnotate(f *testing.F) {
	f.Add([]byte(source))
	f.Add([]byte("{apiVersion: v1, kind: Pod, metadata: {name: \"web\", annotations: {a: |\n x\n}}, spec: {containers: [{name: app, image: nginx}]}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := pod.Parse(text)
		if err != nil {
			return
		}
		// What Annotate gives was read again and compared by itself.
		_, _ = Annotate(p, []byte("version = \"0.1.0\"\n"), Size{1, 2})
	})
}
