// Package trustee_test has the owner's client, the real trustee and the real key
// holder of a guest with a software TPM meet over the wire.
//
// Trust zone: tests only.
package trustee_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/server"
)

func start(t testing.TB) (*server.Server, *trusteeclient.Client) {
	t.Helper()
	dir := t.TempDir()
	s, err := server.Start(t.Context(), server.Config{
		State: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now, SimulatedNamespace: "sim",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cfg, err := trusteeclient.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := trusteeclient.DialConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, c
}

// devices are what a guest finds beside its CPU.
type devices = map[string]func() (keyholder.Attester, error)

// runPod boots a software TPM with a document and starts the key holder.
func runPod(t *testing.T, ca *tpmtest.CA, doc []byte, beside devices) cdhpb.GetResourceServiceService {
	t.Helper()
	conn := tpmtest.Start(t)
	ca.Provision(t, conn, 0)
	log := tpmtest.Boot(t, conn, tpmtest.Events())
	if err := device.BindInitdata(conn, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kh") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k, err := keyholder.New(keyholder.Config{
		Initdata: doc, Floor: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), AttestTimeout: 10 * time.Second,
		OpenAttester: func() (keyholder.Attester, error) { return sim.New(conn, attester.Options{EventLogPath: log}) },
		OpenDevices:  beside,
		CDHSocket:    filepath.Join(dir, "c"), AASocket: filepath.Join(dir, "a"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", filepath.Join(dir, "c"))
		if err == nil {
			cl := ttrpc.NewClient(c)
			t.Cleanup(func() { _ = cl.Close() })
			return cdhpb.NewGetResourceServiceClient(cl)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func get(t *testing.T, p cdhpb.GetResourceServiceService, uri string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := p.GetResource(ctx, &cdhpb.GetResourceRequest{ResourcePath: uri})
	return r.GetResource(), err
}

// document is what the owner seals. demanded are kinds of devices.
func document(t *testing.T, n *trusteeclient.Namespaced, caPEM, note string, demanded ...string) []byte {
	t.Helper()
	aa := &initdata.AAConfig{AdditionalDevices: demanded}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: n.KBSURL(""), Cert: caPEM}
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	b, err := initdata.Build(&initdata.Document{
		Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text, "note": note},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOwnerTrusteeGuest(t *testing.T) {
	s, c := start(t)
	ctx, n, ca := t.Context(), c.Namespace("sim"), tpmtest.NewCA(t, "machine")
	_, owner, _ := ed25519.GenerateKey(rand.Reader)
	doc := document(t, n, s.Client().CAPEM, "pod a")
	sum := sha256.Sum256(doc)
	st, err := seal.Sign(&seal.Statement{
		Version: 1, Pod: seal.Pod{Name: "a"}, Initdata: map[string]string{"sha256": hex.EncodeToString(sum[:])},
		Policy: "sha256:" + strings.Repeat("0", 64), Created: time.Now().UTC().Truncate(time.Second),
	}, owner)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := json.Marshal(tpmtest.References())
	if err != nil {
		t.Fatal(err)
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n.AddEKRoot(ctx, ca.Root))
	must(n.RegisterReferenceValues(ctx, "build", refs))
	must(n.AddOwnerKey(ctx, "me", owner.Public()))
	info, err := n.RegisterSeal(ctx, st.Raw)
	must(info, err)
	if info.ID != st.ID {
		t.Errorf("seal id %s, want %s", info.ID, st.ID)
	}
	must(n.PutResource(ctx, "kbs:///default/db/password", []byte("hunter2")))
	must(n.Bind(ctx, "default/db/password", trusteeapi.Binding{Seals: []string{info.ID}}))

	p := runPod(t, ca, doc, nil)
	if b, err := get(t, p, "kbs:///default/db/password"); err != nil || string(b) != "hunter2" {
		t.Fatalf("%q, %v", b, err)
	}
	big := bytes.Repeat([]byte{7}, 1<<20)
	must(n.PutResource(ctx, "default/db/big", big))
	must(n.Bind(ctx, "default/db/big", trusteeapi.Binding{Seals: []string{info.ID}}))
	if b, err := get(t, p, "kbs:///default/db/big"); err != nil || !bytes.Equal(b, big) {
		t.Errorf("1 MiB: %d bytes, %v", len(b), err)
	}
	l, err := n.Attestations(ctx, trusteeclient.AttestationFilter{Initdata: "sha256:" + hex.EncodeToString(sum[:]), Outcome: trusteeapi.OutcomeGranted})
	if err != nil || len(l) != 1 || !l[0].Simulated {
		t.Errorf("attestations %+v, %v", l, err)
	}

	// The genuine guest with another pod: refused, and the owner can see why.
	other := runPod(t, ca, document(t, n, s.Client().CAPEM, "pod b"), nil)
	_, err = get(t, other, "kbs:///default/db/password")
	if err == nil || !strings.Contains(err.Error(), "secret-unbound") {
		t.Fatalf("got %v", err)
	}
	id := regexp.MustCompile(`[0-9a-f]{32}`).FindString(err.Error())
	r, err := c.Attestation(ctx, id)
	if err != nil || r.Denial == nil || !strings.Contains(r.Denial.Expected, hex.EncodeToString(sum[:])) || r.Denial.Measured == "" {
		t.Errorf("record %q: %+v, %v", id, r, err)
	}
}

func TestClientErrors(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	if _, err := c.Namespace("none").ListResources(ctx); !trusteeclient.IsNotFound(err) {
		t.Errorf("unknown namespace: %v", err)
	}
	if _, err := c.CreateNamespace(ctx, trusteeapi.Namespace{Name: "sim", Simulated: true}); err != nil {
		t.Errorf("the same namespace again: %v", err)
	}
	if _, err := c.CreateNamespace(ctx, trusteeapi.Namespace{Name: "sim"}); !trusteeclient.IsConflict(err) {
		t.Errorf("the other kind of namespace: %v", err)
	}
	_, strange, _ := ed25519.GenerateKey(rand.Reader)
	cfg := s.Client()
	_, err := trusteeclient.Dial(ctx, cfg.URL, []byte(cfg.CAPEM), strange)
	if d, ok := denial.As(err); !ok || d.Reason != "admin-unauthenticated" || d.RecordID == "" {
		t.Errorf("a stranger's key: %v", err)
	}
	o, _ := start(t)
	if _, err := trusteeclient.Dial(ctx, cfg.URL, []byte(o.Client().CAPEM), strange); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another trustee's CA: %v", err)
	}
	if _, err := trusteeclient.Dial(ctx, "http://127.0.0.1:1", []byte(cfg.CAPEM), strange); err == nil {
		t.Error("plain HTTP")
	}
	lines, err := c.Audit(ctx, 0, 100)
	if err != nil || len(lines) < 2 {
		t.Errorf("audit %v, %v", lines, err)
	}
	if err := os.Chmod(cfg.AdminKeyPath, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := trusteeclient.LoadAdminKey(cfg.AdminKeyPath); err == nil {
		t.Error("an admin key that all can read")
	}
}
