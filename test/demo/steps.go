package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

const (
	image      = "registry.example/coffer/demo:encrypted"
	keyPath    = "default/key/demo"
	secretPath = "default/demo/secret"
)

// podYAML is an ordinary pod: nothing in it knows of Coffer.
const podYAML = `apiVersion: v1
kind: Pod
metadata:
  name: demo
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: ` + image + `
    env:
    - name: STAY
      value: "1"
`

// startServices starts the local registry and the trustee.
func (d *demo) startServices(_ context.Context, r *reaper) error {
	registry := filepath.Join(d.dir, "registry")
	line, err := d.start(r, "test-mirror", "--layouts", d.layouts, "--writable", registry, "--listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var m struct{ Address, Registries string }
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return fmt.Errorf("reading the registry's first line: %w", err)
	}
	d.mirrorAddr = m.Address
	if err := os.WriteFile(d.file("registries.conf"), []byte(m.Registries), 0o600); err != nil {
		return err
	}
	line, err = d.start(r, "coffer-trustee", "serve", "--state", filepath.Join(d.dir, "owner", "trustee"),
		"--listen", "127.0.0.1:0", "--simulated-namespace", "sim", "--output", "json")
	if err != nil {
		return err
	}
	var t struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal([]byte(line), &t); err != nil {
		return fmt.Errorf("reading the trustee's first line: %w", err)
	}
	d.trusteeURL = t.URL
	fmt.Printf("      registry at %s, trustee at %s\n", d.mirrorAddr, t.URL)
	return nil
}

func (d *demo) encryptImage(ctx context.Context) error {
	if _, err := d.must(ctx, "image", "encrypt", "--registries", d.file("registries.conf"),
		"--key-id", "kbs:///"+keyPath, "--key-file", d.file("image.key"),
		"registry.example/coffer/demo:plain", image); err != nil {
		return err
	}
	var err error
	d.key, err = os.ReadFile(d.file("image.key"))
	return err
}

func (d *demo) sealPod(ctx context.Context) error {
	if err := os.WriteFile(d.file("pod.yaml"), []byte(podYAML), 0o600); err != nil {
		return err
	}
	r, err := d.must(ctx, "seal", "--tee", d.tee, "--platform", d.platform, "--registries", d.file("registries.conf"),
		"--out", d.file("sealed.yaml"), d.file("pod.yaml"), "--output", "json")
	if err != nil {
		return err
	}
	var s struct {
		Seal string `json:"seal"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || s.Seal == "" {
		return fmt.Errorf("coffer seal named no seal: %w", err)
	}
	d.seal = s.Seal
	return nil
}

func (d *demo) putSecrets(ctx context.Context) error {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	d.secret = []byte("correct horse " + hex.EncodeToString(b[:]))
	if err := os.WriteFile(d.file("secret.txt"), d.secret, 0o600); err != nil {
		return err
	}
	if _, err := d.must(ctx, "secret", "put", keyPath, "--for", d.seal, "--from-file", d.file("image.key")); err != nil {
		return err
	}
	if _, err := d.must(ctx, "secret", "put", secretPath, "--for", d.seal, "--from-file", d.file("secret.txt")); err != nil {
		return err
	}
	// From here on only the trustee has them.
	return errors.Join(os.Remove(d.file("image.key")), os.Remove(d.file("secret.txt")))
}

func (d *demo) runPod(ctx context.Context, _ *reaper) error {
	return d.whileRunning(ctx, d.file("sealed.yaml"), func(p *running) error {
		sum := sha256.Sum256(d.secret)
		want := "secret sha256 " + hex.EncodeToString(sum[:])
		if err := p.waitOutput(want); err != nil {
			return err
		}
		fmt.Printf("      the pod printed the digest of the secret the trustee holds: equal\n")
		if !strings.Contains(p.stderr(), "simulated") {
			return errors.New("coffer run did not say that this TEE is simulated")
		}
		if err := d.searchPlaintext(); err != nil {
			return err
		}
		fmt.Printf("\n      Refusal 3, now, while it runs: the host asks the attested guest for what the policy does not allow\n")
		return d.refuseCalls(ctx, p)
	})
}

// searchPlaintext looks for key and secret wherever the host can look.
func (d *demo) searchPlaintext() error {
	places := []string{filepath.Join(d.dir, "run"), filepath.Join(d.dir, "registry"), filepath.Join(d.dir, "coffer-trustee.log"), filepath.Join(d.dir, "test-mirror.log"), d.file("sealed.yaml")}
	ns := append(needles("image key", d.key), needles("secret", d.secret)...)
	found, files, size, err := search(places, ns)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("plaintext found: %s", strings.Join(found, "; "))
	}
	// The search must be able to fail: it has to find what is there.
	probe := filepath.Join(d.dir, "probe")
	if err := os.WriteFile(probe, bytes.Join([][]byte{make([]byte, 1000), d.secret, make([]byte, 1000)}, nil), 0o600); err != nil {
		return err
	}
	defer os.Remove(probe)
	if hits, _, err := searchFile(probe, ns); err != nil || len(hits) == 0 {
		return fmt.Errorf("the search does not find a planted secret: %w", err)
	}
	fmt.Printf("      searched %d files (%.1f MB) of console, logs, state directory, registry and vTPM state for key and secret, raw, hex and base64: neither is there\n", files, float64(size)/1e6)
	return nil
}

// refuseInitrd boots a guest to which the node has added a file.
func (d *demo) refuseInitrd(ctx context.Context) error {
	if launch.TEE(d.tee).Process() {
		return d.refuseAgent(ctx)
	}
	evil, err := d.evilPlatform()
	if err != nil {
		return err
	}
	return d.mustBeDenied(ctx, "initrd", "--platform", evil, d.file("sealed.yaml"))
}

// refuseAgent has a node that starts another agent in the library OS than it was
// told to. The agent is the initrd of a process TEE.
func (d *demo) refuseAgent(ctx context.Context) error {
	bin := filepath.Join(d.dir, "evil-bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"coffer", "coffer-runsc", "coffer-guest-sim"} {
		if err := copyFile(filepath.Join(bin, name), filepath.Join(d.bin, name), ""); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(bin, "evil-agent"), filepath.Join(d.bin, "coffer-guest-sim"), "evil"); err != nil {
		return err
	}
	node := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = sandbox ] || exec %[1]s \"$@\"\nsed -u 's#/coffer-guest-sim\"#/evil-agent\"#' | %[1]s \"$@\"\n", filepath.Join(d.bin, "coffer-node"))
	if err := os.WriteFile(filepath.Join(bin, "coffer-node"), []byte(node), 0o700); err != nil {
		return err
	}
	good := d.bin
	defer func() { d.bin = good }()
	d.bin = bin
	return d.mustBeDenied(ctx, "initrd", d.file("sealed.yaml"))
}

// copyFile copies a program and appends more.
func copyFile(to, from, more string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(b, more...), 0o755) // a process under another uid executes it
}

// refuseInitdata runs the genuine guest with initdata of the node's making.
func (d *demo) refuseInitdata(ctx context.Context) error {
	evil := strings.Replace(podYAML, `value: "1"`, `value: "2"`, 1)
	if err := os.WriteFile(d.file("evil-pod.yaml"), []byte(evil), 0o600); err != nil {
		return err
	}
	// The node can build initdata, but it has no owner's key to sign a seal
	// with: --unregistered leaves the trustee out.
	if _, err := d.must(ctx, "seal", "--tee", d.tee, "--platform", d.platform, "--registries", d.file("registries.conf"),
		"--unregistered", "--out", d.file("evil-sealed.yaml"), d.file("evil-pod.yaml")); err != nil {
		return err
	}
	return d.mustBeDenied(ctx, "initdata", "--platform", d.platform, d.file("evil-sealed.yaml"))
}

// mustBeDenied runs a pod that has to be refused, naming what.
func (d *demo) mustBeDenied(ctx context.Context, what string, args ...string) error {
	r, err := d.coffer(ctx, append([]string{"run", "--tee", d.tee, "--registries", d.file("registries.conf")}, args...)...)
	if err != nil {
		return err
	}
	if r.code != 123 {
		return fmt.Errorf("it ended with %d instead of 123, denied", r.code)
	}
	if !strings.Contains(strings.ToLower(r.stderr), what) || !strings.Contains(r.stderr, "expected") {
		return fmt.Errorf("the explanation names neither %q nor what was expected", what)
	}
	if strings.Contains(r.stdout, "secret sha256") {
		return errors.New("the workload ran and got the secret")
	}
	return nil
}

// evilPlatform copies platform.json and adds a file to the guest's initrd.
func (d *demo) evilPlatform() (string, error) {
	b, err := os.ReadFile(d.platform)
	if err != nil {
		return "", err
	}
	var p map[string]any
	if err := json.Unmarshal(b, &p); err != nil {
		return "", err
	}
	base := filepath.Dir(d.platform)
	absolute(p, base)
	images, _ := p["images"].(map[string]any)
	sim, _ := images["sim"].(map[string]any)
	initrd, _ := sim["initrd"].(string)
	if initrd == "" {
		return "", errors.New("platform.json names no initrd of the sim image")
	}
	content, err := os.ReadFile(initrd)
	if err != nil {
		return "", err
	}
	content = append(content, evilArchive()...)
	sum := sha256.Sum256(content)
	sim["initrd"], sim["initrd_sha256"] = d.file("evil-initrd.cpio"), hex.EncodeToString(sum[:])
	if err := os.WriteFile(d.file("evil-initrd.cpio"), content, 0o644); err != nil {
		return "", err
	}
	if b, err = json.Marshal(p); err != nil {
		return "", err
	}
	return d.file("evil-platform.json"), os.WriteFile(d.file("evil-platform.json"), b, 0o600)
}

// absolute turns the relative paths in a platform.json into absolute ones.
func absolute(v any, base string) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	for k, x := range m {
		s, isString := x.(string)
		if isString && s != "" && !filepath.IsAbs(s) {
			if _, err := os.Stat(filepath.Join(base, s)); err == nil {
				m[k] = filepath.Join(base, s)
			}
			continue
		}
		absolute(x, base)
	}
}

// evilArchive is a second cpio archive with one file; the kernel unpacks both.
func evilArchive() []byte {
	var b bytes.Buffer
	entry := func(name string, mode int, data string) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-b.Len()%4)%4))
		b.WriteString(data)
		b.Write(make([]byte, (4-b.Len()%4)%4))
	}
	entry("etc/evil", 0o100644, "code of the node's own\n")
	entry("TRAILER!!!", 0, "")
	b.Write(make([]byte, (512-b.Len()%512)%512))
	return b.Bytes()
}

func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }
