// Package attested_test boots the simulated guest with its software TPM and lets
// it attest: real firmware, kernel, measurements, key holder and verifier; only
// the trustee around the verifier is a fake.
//
// COFFER_PLATFORM names a platform.json; default: guest in the cache.
package attested_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/host/vmm"
	"github.com/cofferproject/coffer/tee/tpm/appraise"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/test/agentdrive"
	"github.com/cofferproject/coffer/test/fakekbs"
)

type machine struct {
	kbs     *fakekbs.KBS
	console func() string
}

func load(t *testing.T) (p *platform.Platform, refs *refvalue.Bundle, cache string) {
	t.Helper()
	if os.Getenv("COFFER_E2E") != "1" {
		t.Skip("starts virtual machines: set COFFER_E2E=1")
	}
	cache, err := vmm.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("COFFER_PLATFORM")
	if path == "" {
		path = filepath.Join(cache, "guest", platform.FileName)
	}
	if p, err = platform.Load(path); err != nil {
		t.Fatalf("%v (coffer guest build makes it)", err)
	}
	b, err := os.ReadFile(p.Measurements)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = os.ReadFile(filepath.Join(filepath.Dir(path), p.Measurements))
	}
	if err != nil {
		t.Fatal(err)
	}
	if refs, err = refvalue.Parse(b); err != nil {
		t.Fatal(err)
	}
	return p, refs, cache
}

// policy lets the host set up the network; its container is never started.
func policy(t *testing.T) string {
	t.Helper()
	digest := "sha256:" + strings.Repeat("0", 64)
	uid := uint32(0)
	b, err := json.Marshal(podpolicy.Policy{
		Version: podpolicy.Version, Pod: "default/attested", Hostname: "attested", Sandbox: podpolicy.Sandbox{ResolvConf: "host", ShmBytes: 64 << 20},
		Containers: []podpolicy.Container{{
			Name: "never", Image: "registry.example/never@" + digest, ManifestDigest: digest, Args: []string{"/never"}, Env: []podpolicy.EnvVar{}, Cwd: "/",
			Capabilities: []string{}, Seccomp: "runtime-default", Restart: "Never", User: podpolicy.User{UID: &uid, GID: &uid},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bootTimeout is what the firmware and the guest may take under TCG on a busy machine.
const bootTimeout = 4 * time.Minute

// boot starts the guest and its network; refs are the verifier's.
func boot(t *testing.T, p *platform.Platform, refs *refvalue.Bundle, cache string, sent func(doc []byte) []byte) *machine {
	t.Helper()
	k := fakekbs.Start(t, nil, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	k.Down = true // until the TPM's root is known
	k.Resources["default/secret/1"] = []byte("the secret")
	aa := &initdata.AAConfig{}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: strings.Replace(k.URL, "127.0.0.1", "10.0.2.2", 1), Cert: k.CAPEM()}
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text, podpolicy.DataKey: policy(t)}})
	if err != nil {
		t.Fatal(err)
	}
	img := p.Images[platform.Sim]
	spec := &launch.Spec{
		TEE: launch.TPMSim, Firmware: launch.File{Path: p.Firmware.Code}, VarsFile: launch.File{Path: p.Firmware.Vars},
		Kernel: launch.File{Path: img.Kernel}, Initrd: launch.File{Path: img.Initrd}, Cmdline: img.Cmdline, VCPUs: 1, MemoryMiB: 512, Initdata: sent(doc),
	}
	d, err := vmm.New(p, vmm.Options{CacheDir: cache, BootTimeout: bootTimeout})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout+time.Minute)
	t.Cleanup(cancel)
	sb, err := d.Launch(ctx, "attested", dir, spec, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{kbs: k, console: func() string {
		b, _ := os.ReadFile(filepath.Join(dir, nodeapi.ConsoleLog))
		return string(b)
	}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", m.console())
		}
		if err := sb.Destroy(); err != nil {
			t.Error(err)
		}
	})
	der, _ := sb.(interface{ EKRoot() ([]byte, string) }).EKRoot()
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Config{
		Simulated: verifier.InsecureSimulated, CredentialKey: make([]byte, 32), SimulatedRoots: []*x509.Certificate{root}, References: []*refvalue.Bundle{refs},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.Set(func() { k.Verifier, k.Down = v, false })
	conn, err := sb.Dial(ctx, byte(channel.KindTTRPC))
	if err != nil {
		t.Fatal(err)
	}
	a := agentdrive.New(conn)
	t.Cleanup(a.Close)
	if _, err := a.UpdateInterface(ctx, &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{
		Device: "eth0", Name: "eth0", HwAddr: "52:54:00:12:34:56", Mtu: 1500,
		IPAddresses: []*agentpb.IPAddress{{Family: agentpb.IPFamily_v4, Address: "10.0.2.15", Mask: "24"}},
	}}); err != nil {
		t.Fatal(err)
	}
	return m
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(bootTimeout); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestGuestAttests(t *testing.T) {
	p, refs, cache := load(t)
	m := boot(t, p, refs, cache, func(doc []byte) []byte { return doc })
	var took time.Duration
	until(t, "token", func() bool {
		_, attests, _ := m.kbs.Count()
		if attests > 1 {
			t.Fatalf("%d attestations", attests)
		}
		m.kbs.Set(func() {
			if !m.kbs.LastToken.IsZero() {
				took = m.kbs.LastToken.Sub(m.kbs.FirstAuth)
			}
		})
		return took > 0
	})
	t.Logf("first auth request to token: %s", took)
}

// The guest is genuine but its firmware measured another initrd than the
// reference values know.
func TestForeignReferenceValues(t *testing.T) {
	p, refs, cache := load(t)
	other := *refs
	other.Sets = nil
	for _, s := range refs.Sets {
		s.Events = append([]refvalue.Event(nil), s.Events...)
		for i := range s.Events {
			if s.Events[i].PCR == 9 && strings.Contains(s.Events[i].What, "initrd") {
				s.Events[i].Digest[0] ^= 1
			}
		}
		other.Sets = append(other.Sets, s)
	}
	m := boot(t, p, &other, cache, func(doc []byte) []byte { return doc })
	until(t, "denial on the guest's console", func() bool {
		return strings.Contains(m.console(), string(appraise.ReasonEventUnexplained))
	})
	m.kbs.Set(func() {
		if !m.kbs.LastToken.IsZero() {
			t.Error("a token was issued")
		}
	})
}
