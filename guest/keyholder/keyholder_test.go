package keyholder

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/keyproviderpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
	"github.com/cofferproject/coffer/test/fakekbs"
)

// floor is the date of a guest image made long before its trustee.
var floor = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// fakeTEE gives evidence that proves nothing, for tests of the channel.
type fakeTEE struct{}

func (fakeTEE) TEE() string { return "tpm" }
func (fakeTEE) RequestExtra() *kbs.RequestExtra {
	return &kbs.RequestExtra{SupportedHashAlgorithms: kbs.SupportedHashes}
}
func (fakeTEE) Close() error { return nil }
func (fakeTEE) Evidence(_ context.Context, rd []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	return json.Marshal(map[string][]byte{"report_data": rd})
}

// slowTEE takes its time for evidence, whatever its caller's context says, as
// hardware does; it must not be closed under it.
type slowTEE struct {
	fakeTEE
	asked chan struct{}
	busy  *atomic.Bool
	bad   *atomic.Bool
}

func (s slowTEE) Evidence(ctx context.Context, rd []byte, ch *kbs.TPMChallenge) (json.RawMessage, error) {
	s.busy.Store(true)
	close(s.asked)
	time.Sleep(100 * time.Millisecond)
	s.busy.Store(false)
	return s.fakeTEE.Evidence(ctx, rd, ch)
}

func (s slowTEE) Close() error {
	s.bad.Store(s.busy.Load())
	return nil
}

func TestEndsAfterTheAttestation(t *testing.T) {
	k := simpleKBS(t)
	tee := slowTEE{asked: make(chan struct{}), busy: new(atomic.Bool), bad: new(atomic.Bool)}
	_, end := runPodIn(t, document(t, k.URL, k.CAPEM()), func() (Attester, error) { return tee, nil }, t.TempDir())
	<-tee.asked
	end()
	if tee.bad.Load() {
		t.Error("the TEE was closed while evidence was made")
	}
}

// pod is a running key holder with its clients.
type pod struct {
	cdh cdhpb.GetResourceServiceService
	kp  keyproviderpb.KeyProviderServiceService
	aa  aapb.AttestationAgentServiceService
	ctl *net.UnixConn
	ev  aapb.AttestationAgentServiceService // the workloads' socket for events
}

func document(t testing.TB, url, ca string, manifests ...string) []byte {
	t.Helper()
	aa := &initdata.AAConfig{}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: url, Cert: ca}
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]string{initdata.KeyAA: text}
	if len(manifests) > 0 {
		data[podpolicy.DataKey] = policy(t, manifests)
	}
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func policy(t testing.TB, manifests []string) string {
	t.Helper()
	p := podpolicy.Policy{Version: podpolicy.Version, Pod: "default/test", Hostname: "test", Sandbox: podpolicy.Sandbox{ResolvConf: "host", ShmBytes: 64 << 20}}
	for i, m := range manifests {
		uid := uint32(0)
		p.Containers = append(p.Containers, podpolicy.Container{
			Name: fmt.Sprintf("c%d", i), Image: "registry.example/app@" + m, ManifestDigest: m, Args: []string{"/app"}, Env: []podpolicy.EnvVar{},
			Cwd: "/", Capabilities: []string{}, Seccomp: "unconfined", Restart: "Never", User: podpolicy.User{UID: &uid, GID: &uid},
		})
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func runPod(t *testing.T, doc []byte, open func() (Attester, error)) *pod {
	t.Helper()
	p, _ := runPodIn(t, doc, open, t.TempDir())
	return p
}

// runPodIn also gives what ends the key holder; its event log is in logs.
func runPodIn(t *testing.T, doc []byte, open func() (Attester, error), logs string) (*pod, func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	agent, file, err := layerkey.ControlPair()
	if err != nil {
		t.Fatal(err)
	}
	control, err := layerkey.FileControl(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Initdata: doc, OpenAttester: open, Floor: floor, Control: control, AttestTimeout: 3 * time.Second,
		CDHSocket: filepath.Join(dir, "cdh.sock"), AASocket: filepath.Join(dir, "aa.sock"),
		EventSocket: filepath.Join(dir, "ev.sock"), EventLogDir: logs, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	end := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the key holder does not end with its context")
		}
		_ = agent.Close()
	})
	t.Cleanup(end)
	dial := func(path string) *ttrpc.Client {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("unix", path)
			if err == nil {
				cl := ttrpc.NewClient(c)
				t.Cleanup(func() { _ = cl.Close() })
				return cl
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	cdh := dial(cfg.CDHSocket)
	return &pod{
		cdhpb.NewGetResourceServiceClient(cdh), keyproviderpb.NewKeyProviderServiceClient(cdh), aapb.NewAttestationAgentServiceClient(dial(cfg.AASocket)), agent,
		aapb.NewAttestationAgentServiceClient(dial(cfg.EventSocket)),
	}, end
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	defer func() { _ = recover() }() // a line after the test's end
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func openFake() (Attester, error) { return fakeTEE{}, nil }

func (p *pod) get(t *testing.T, uri string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := p.cdh.GetResource(ctx, &cdhpb.GetResourceRequest{ResourcePath: uri})
	return r.GetResource(), err
}

func simpleKBS(t *testing.T) *fakekbs.KBS {
	k := fakekbs.Start(t, nil, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	k.Resources["default/secret/1"] = []byte("the secret")
	return k
}

func TestManyRequestsOneAttestation(t *testing.T) {
	k := simpleKBS(t)
	p := runPod(t, document(t, k.URL+"/", k.CAPEM()), openFake)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if b, err := p.get(t, "kbs:///default/secret/1"); err != nil || string(b) != "the secret" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if a, b, c := k.Count(); a != 1 || b != 1 || c != 20 {
		t.Errorf("%d auths, %d attestations, %d requests", a, b, c)
	}
}

func TestExpiredTokenIsReplacedOnce(t *testing.T) {
	k := simpleKBS(t)
	p := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Fatal(err)
	}
	k.Set(func() { k.Revoked = true })
	if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Fatal(err)
	}
	if _, b, _ := k.Count(); b != 2 {
		t.Errorf("%d attestations, want 2", b)
	}
	// A trustee that takes no token at all is asked twice, not for ever.
	k.Set(func() { k.TakesNone = true })
	if _, err := p.get(t, "kbs:///default/secret/1"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if _, b, _ := k.Count(); b != 3 {
		t.Errorf("%d attestations, want 3", b)
	}
}

func TestTypedRefusalsComeThrough(t *testing.T) {
	k := simpleKBS(t)
	p := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	for uri, want := range map[string]struct {
		code codes.Code
		text string
	}{
		"kbs:///default/secret/denied": {codes.PermissionDenied, "resource-not-bound: the claim"},
		"kbs:///default/secret/absent": {codes.NotFound, "resource default/secret/absent"},
		"kbs:///default/secret":        {codes.InvalidArgument, "2 path segments"},
		"http://x/a/b/c":               {codes.InvalidArgument, "scheme"},
	} {
		_, err := p.get(t, uri)
		if status.Code(err) != want.code || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v, want %s %q", uri, err, want.code, want.text)
		}
	}
	_, err := p.get(t, "kbs:///default/secret/denied")
	if err == nil || !strings.Contains(err.Error(), "record record-7") {
		t.Errorf("no record id in %v", err)
	}
}

func TestOnlyTheCAInInitdata(t *testing.T) {
	k, other := simpleKBS(t), simpleKBS(t)
	p := runPod(t, document(t, k.URL, other.CAPEM()), openFake)
	_, err := p.get(t, "kbs:///default/secret/1")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), string(ReasonKBSUntrusted)) {
		t.Errorf("got %v", err)
	}
	if a, _, _ := k.Count(); a != 0 {
		t.Error("a request reached a trustee with another CA")
	}
	for _, c := range []struct{ url, ca string }{{"http://127.0.0.1:1", k.CAPEM()}, {k.URL, ""}, {"https://u:p@127.0.0.1", k.CAPEM()}, {"127.0.0.1:1", k.CAPEM()}} {
		if _, err := New(Config{Initdata: document(t, c.url, c.ca), OpenAttester: openFake, Floor: floor, Logger: slog.Default()}); err == nil {
			t.Errorf("accepted %q with a CA of %d bytes", c.url, len(c.ca))
		}
	}
}

func TestSettingsWithoutEffectAreRefused(t *testing.T) {
	for name, data := range map[string]map[string]string{
		"key algorithm": {initdata.KeyAA: "[token_configs.kbs]\nurl='https://x'\ntee_key_algorithm='RSA-OAEP-256'\n"},
		"offline":       {initdata.KeyCDH: "[kbc]\nname='offline_fs_kbc'\n"},
		"credentials":   {initdata.KeyCDH: "[kbc]\nname='cc_kbc'\n[[credentials]]\npath='/x'\nresource_uri='kbs:///a/b/c'\n"},
	} {
		b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Initdata: b, OpenAttester: openFake, Floor: floor, Logger: slog.Default()}); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The guest's wall clock says 2026; what counts is the floor and signed time.
func TestTimeRule(t *testing.T) {
	future := fakekbs.Start(t, nil, time.Now().AddDate(5, 0, 0), time.Now().AddDate(6, 0, 0))
	future.Resources["default/secret/1"] = []byte("x")
	if _, err := runPod(t, document(t, future.URL, future.CAPEM()), openFake).get(t, "kbs:///default/secret/1"); err != nil {
		t.Errorf("certificates of the future, as seen by the host's clock: %v", err)
	}
	past := fakekbs.Start(t, nil, floor.AddDate(-2, 0, 0), floor.AddDate(-1, 0, 0))
	if _, err := runPod(t, document(t, past.URL, past.CAPEM()), openFake).get(t, "kbs:///default/secret/1"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("certificates that ended before the image was made: %v", err)
	}
	late := simpleKBS(t)
	late.IssuedAt = time.Now().AddDate(1, 0, 0) // signed time after the certificates' end
	if _, err := runPod(t, document(t, late.URL, late.CAPEM()), openFake).get(t, "kbs:///default/secret/1"); err == nil {
		t.Error("certificates that ended before the signed time were accepted")
	}
}

func TestTrusteeDownThenUp(t *testing.T) {
	k := simpleKBS(t)
	k.Down = true
	p := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	began := time.Now()
	_, err := p.get(t, "kbs:///default/secret/1")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "busy") || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	k.Set(func() { k.Down = false })
	if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Error(err)
	}
}

// What the trustee fetches for this machine is waited for, within the time of an
// attestation.
func TestCollateralOnItsWay(t *testing.T) {
	k := simpleKBS(t)
	k.Lacking = 1
	p := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	if b, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Errorf("%q, %v", b, err)
	}
	k = simpleKBS(t)
	k.Lacking = 1000
	p = runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	began := time.Now()
	_, err := p.get(t, "kbs:///default/secret/1")
	if err == nil || !strings.Contains(err.Error(), "collateral-missing") || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	k.Set(func() {
		if n := 1000 - k.Lacking; n > 8 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestNoInitdataNoTrustee(t *testing.T) {
	p := runPod(t, nil, openFake)
	_, err := p.get(t, "kbs:///default/secret/1")
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "without initdata") {
		t.Errorf("got %v", err)
	}
	r, err := p.aa.GetEvidence(context.Background(), &aapb.GetEvidenceRequest{RuntimeData: []byte("x")})
	if err != nil || len(r.GetEvidence()) == 0 {
		t.Errorf("evidence: %v", err)
	}
}

func TestTokenComesWithoutTheKey(t *testing.T) {
	k := simpleKBS(t)
	p := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	r, err := p.aa.GetToken(context.Background(), &aapb.GetTokenRequest{TokenType: "kbs"})
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]string
	if json.Unmarshal(r.GetToken(), &out) != nil || out["token"] == "" || len(out) != 1 {
		t.Errorf("got %s", r.GetToken())
	}
	x, err := p.aa.ExtendRuntimeMeasurement(context.Background(), &aapb.ExtendRuntimeMeasurementRequest{})
	if err != nil || x.GetResult() != aapb.RuntimeMeasurementResult_NOT_ENABLED {
		t.Errorf("extend: %v, %v", x, err)
	}
	if _, err := p.aa.BindInitData(context.Background(), &aapb.BindInitDataRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("bind: %v", err)
	}
}

// image makes a manifest with one encrypted layer, and its packet.
func image(t *testing.T, kid string, kek []byte, note string) (manifest, packet []byte) {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	packet, err = json.Marshal(map[string]any{"kid": kid, "wrapped_data": gcm.Seal(nil, iv, []byte("options of "+note), nil), "iv": iv, "wrap_type": "A256GCM"})
	if err != nil {
		t.Fatal(err)
	}
	d := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(note)))
	manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": d, "size": 2},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "digest": d, "size": 2, "annotations": map[string]string{
			"org.opencontainers.image.enc.keys.provider.attestation-agent": base64.StdEncoding.EncodeToString(packet),
			"org.opencontainers.image.enc.pubopts":                         base64.StdEncoding.EncodeToString([]byte(`{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `","cipheroptions":{}}`)),
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return manifest, packet
}

func TestLayerKeysOnlyForImagesOfThePolicy(t *testing.T) {
	k := simpleKBS(t)
	kek := bytes.Repeat([]byte{3}, 32)
	k.Resources["default/image-kek/1"] = kek
	mine, packet := image(t, "kbs:///default/image-kek/1", kek, "mine")
	other, otherPacket := image(t, "kbs:///default/image-kek/1", kek, "other")
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(mine))
	p := runPod(t, document(t, k.URL, k.CAPEM(), digest), openFake)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	open := func(digest string) *layerkey.Client {
		f, err := layerkey.HandOver(p.ctl, digest)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = c.Close() })
		return layerkey.NewClient(c)
	}
	published := func(packet []byte) ([]byte, error) {
		in := `{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":null,"annotation":"` + base64.StdEncoding.EncodeToString(packet) + `"}}`
		r, err := p.kp.UnWrapKey(ctx, &keyproviderpb.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: []byte(in)})
		return r.GetKeyProviderKeyWrapProtocolOutput(), err
	}
	denied := func(err error) {
		t.Helper()
		d, ok := denial.As(err)
		if !ok || d.Reason != ReasonNotInPolicy {
			t.Errorf("got %v, want a denial %s", err, ReasonNotInPolicy)
		}
	}
	c := open(digest)
	_, err := c.UnwrapKey(ctx, packet) // before the manifest
	denied(err)
	if _, err := published(packet); status.Code(err) != codes.PermissionDenied {
		t.Errorf("published interface before the manifest: %v", err)
	}
	denied(c.PresentManifest(ctx, other))
	if err := c.PresentManifest(ctx, mine); err != nil {
		t.Fatal(err)
	}
	_, err = c.UnwrapKey(ctx, otherPacket)
	denied(err)
	if b, err := c.UnwrapKey(ctx, packet); err != nil || string(b) != "options of mine" {
		t.Errorf("%q, %v", b, err)
	}
	_, err = c.UnwrapKey(ctx, packet) // one key for each connection
	denied(err)
	if _, err := open(digest).UnwrapKey(ctx, packet); err == nil {
		t.Error("a connection gives the key of a manifest presented on another one")
	}
	// An agent that was talked into another image gets nothing either.
	denied(open(fmt.Sprintf("sha256:%x", sha256.Sum256(other))).PresentManifest(ctx, other))
	b, err := published(packet)
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		R struct {
			Opts []int `json:"optsdata"`
		} `json:"keyunwrapresults"`
	}
	if err := json.Unmarshal(b, &out); err != nil || len(out.R.Opts) != len("options of mine") {
		t.Errorf("%s: %v", b, err)
	}
}

// A parser that one image has taken over gets no key of another image of the same
// pod, although that one's own parser has presented its manifest.
func TestLayerKeysOfOneImageForEachConnection(t *testing.T) {
	k := simpleKBS(t)
	kek := bytes.Repeat([]byte{3}, 32)
	k.Resources["default/image-kek/1"] = kek
	a, packetA := image(t, "kbs:///default/image-kek/1", kek, "a")
	b, packetB := image(t, "kbs:///default/image-kek/1", kek, "b")
	digestA, digestB := fmt.Sprintf("sha256:%x", sha256.Sum256(a)), fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	p := runPod(t, document(t, k.URL, k.CAPEM(), digestA, digestB), openFake)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	open := func(digest string, manifest []byte) *layerkey.Client {
		f, err := layerkey.HandOver(p.ctl, digest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c := layerkey.NewClient(conn)
		if err := c.PresentManifest(ctx, manifest); err != nil {
			t.Fatal(err)
		}
		return c
	}
	parserA, parserB := open(digestA, a), open(digestB, b)
	_, err := parserB.UnwrapKey(ctx, packetA)
	if d, ok := denial.As(err); !ok || d.Reason != ReasonNotInPolicy {
		t.Errorf("image b's parser and image a's packet: %v, want %s", err, ReasonNotInPolicy)
	}
	if err := parserB.PresentManifest(ctx, a); err == nil {
		t.Error("image b's connection takes image a's manifest")
	}
	for c, want := range map[*layerkey.Client]string{parserA: "a", parserB: "b"} {
		packet := map[string][]byte{"a": packetA, "b": packetB}[want]
		if got, err := c.UnwrapKey(ctx, packet); err != nil || string(got) != "options of "+want {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
}

// The trustee's TLS key is under the CA in initdata too. What it signs gives the
// guest no time.
func TestOnlyATokenSignerGivesTime(t *testing.T) {
	for uri, want := range map[string]bool{ear.SignerURI: true, "": false, "urn:coffer:trustee:other": false} {
		k := simpleKBS(t)
		k.SignerURI = uri
		c, clk := clientOf(t, k)
		c.tee, c.life, c.attestTimeout = start(openFake), t.Context(), 3*time.Second
		if _, err := c.session(t.Context(), nil); err != nil {
			t.Fatalf("signer %q: %v", uri, err)
		}
		if got := clk.Signed(); got != want {
			t.Errorf("signer %q: signed time %t, want %t", uri, got, want)
		}
	}
}
