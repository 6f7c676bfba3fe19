// Package rcar_test runs the guest's key holder against the trustee: both ends
// of the KBS protocol as they are shipped, a software TPM between them.
package rcar_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/server"
)

const namespace = "sim"

type world struct {
	t       *testing.T
	ca      *tpmtest.CA
	cfg     trusteeapi.ClientConfig
	ns      *trusteeclient.Namespaced
	trustee *trusteeclient.Client
	guest   logBuffer
	aa, cdh string // the last guest's sockets
}

// logBuffer keeps what a guest logged.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer.
func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newWorld starts a trustee with one simulated namespace that knows the boot of
// tpmtest.Events.
func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := context.Background()
	s, err := server.Start(ctx, server.Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", SimulatedNamespace: namespace, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, cfg: s.Client(), ca: tpmtest.NewCA(t, "simulated root")}
	if w.trustee, err = trusteeclient.DialConfig(ctx, &w.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.trustee.Close)
	w.ns = w.trustee.Namespace(namespace)
	refs, err := json.Marshal(tpmtest.References())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ns.RegisterReferenceValues(ctx, "test", refs); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ns.AddEKRoot(ctx, w.ca.Root); err != nil {
		t.Fatal(err)
	}
	return w
}

// document names the trustee; note makes it another document.
func (w *world) document(note string) []byte {
	w.t.Helper()
	return w.documentWith(note, func(*initdata.AAConfig) {})
}

// documentWith changes what the attestation agent is told.
func (w *world) documentWith(note string, change func(*initdata.AAConfig)) []byte {
	w.t.Helper()
	aa := &initdata.AAConfig{}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: w.cfg.URL + "/ns/" + namespace, Cert: w.cfg.CAPEM}
	aa.EventlogConfig = &initdata.AAEventlog{EnableEventlog: true}
	change(aa)
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text, "note": note}})
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// secret stores a secret bound to a document.
func (w *world) secret(name, value string, doc []byte) {
	w.t.Helper()
	ctx := context.Background()
	if _, err := w.ns.PutResource(ctx, name, []byte(value)); err != nil {
		w.t.Fatal(err)
	}
	w.bind(name, doc)
}

// bind lets a document have what is stored.
func (w *world) bind(name string, doc []byte) {
	w.t.Helper()
	sum := sha256.Sum256(doc)
	if _, err := w.ns.Bind(context.Background(), name, trusteeapi.Binding{Initdata: []string{"sha256:" + hex.EncodeToString(sum[:])}}); err != nil {
		w.t.Fatal(err)
	}
}

// boot measures one document, and gives the key holder another if sent is set.
func (w *world) boot(measured, sent []byte) cdhpb.GetResourceServiceService {
	w.t.Helper()
	t := w.t
	conn := tpmtest.Start(t)
	w.ca.Provision(t, conn, 2)
	log := tpmtest.Boot(t, conn, tpmtest.Events())
	if err := device.BindInitdata(conn, sha256.Sum256(measured)); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rcar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := keyholder.Config{
		Initdata: sent, Floor: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), CDHSocket: filepath.Join(dir, "cdh"), AASocket: filepath.Join(dir, "aa"),
		OpenAttester: func() (keyholder.Attester, error) { return sim.New(conn, attester.Options{EventLogPath: log}) },
		EventLogDir:  filepath.Join(dir, "aael"),
		Logger:       slog.New(slog.NewTextHandler(&w.guest, nil)),
	}
	w.aa, w.cdh = cfg.AASocket, cfg.CDHSocket
	s, err := keyholder.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", cfg.CDHSocket)
		if err == nil {
			cl := ttrpc.NewClient(c)
			t.Cleanup(func() { _ = cl.Close() })
			return cdhpb.NewGetResourceServiceClient(cl)
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func get(t *testing.T, c cdhpb.GetResourceServiceService, uri string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := c.GetResource(ctx, &cdhpb.GetResourceRequest{ResourcePath: uri})
	return string(r.GetResource()), err
}

func TestRelease(t *testing.T) {
	w := newWorld(t)
	doc := w.document("mine")
	w.secret("default/secret/1", "the secret", doc)
	c := w.boot(doc, doc)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if v, err := get(t, c, "kbs:///default/secret/1"); err != nil || v != "the secret" {
				t.Errorf("%q, %v", v, err)
			}
		})
	}
	wg.Wait()
	// One attestation, and the token's signer leads to the CA, so there is a signed time.
	if l := w.guest.String(); strings.Count(l, "msg=attested") != 1 || strings.Contains(l, "WARN") || strings.Contains(l, "the secret") {
		t.Errorf("guest's log: %s", l)
	}
	lines, err := w.trustee.Audit(context.Background(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(lines, "\n"); strings.Contains(all, "the secret") || !strings.Contains(all, "default/secret/1") {
		t.Errorf("audit log: %s", all)
	}
}

// What a guest records is a claim, which changes nothing by itself; a policy may
// ask about it, and then a secret stays where it is.
func TestRuntimeEvents(t *testing.T) {
	w := newWorld(t)
	doc := w.document("mine")
	w.secret("default/secret/1", "the secret", doc)
	text, _ := policy.DefaultText("cpu")
	text = strings.Replace(text, `"runtime-opaque": 0`, `"runtime-opaque": opened`, 1) + `
default opened := 0

opened := 33 if "example.org open the vault" in input.tpm.runtime_events
`
	if _, err := w.ns.SetPolicy(t.Context(), "default_cpu", text); err != nil {
		t.Fatal(err)
	}
	c := w.boot(doc, doc)
	conn, err := net.Dial("unix", w.aa)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	aa := aapb.NewAttestationAgentServiceClient(client)
	for _, e := range []struct {
		content, reason string
	}{{"", ""}, {"a door", ""}, {`{"many":1e999999999,"deep":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + "}", ""}, {"the vault", "status-unacceptable"}} {
		if e.content != "" {
			r, err := aa.ExtendRuntimeMeasurement(t.Context(), &aapb.ExtendRuntimeMeasurementRequest{Domain: "example.org", Operation: "open", Content: e.content})
			if err != nil || r.GetResult() != aapb.RuntimeMeasurementResult_OK {
				t.Fatalf("%v, %v", r, err)
			}
		}
		v, err := get(t, c, "kbs:///default/secret/1")
		if e.reason == "" && (err != nil || v != "the secret") || e.reason != "" && (err == nil || !strings.Contains(err.Error(), e.reason)) {
			t.Errorf("after %.40q: %q, %v", e.content, v, err)
		}
	}
	if n := strings.Count(w.guest.String(), "msg=attested"); n != 4 {
		t.Errorf("%d attestations, one for each state of the log is 4", n)
	}
}

func TestGuestWithAnotherInitdata(t *testing.T) {
	w := newWorld(t)
	mine, other := w.document("mine"), w.document("other")
	w.secret("default/secret/1", "the secret", mine)
	t.Run("says so", func(t *testing.T) {
		w.t = t
		_, err := get(t, w.boot(other, other), "kbs:///default/secret/1")
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "record") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("lies", func(t *testing.T) {
		w.t = t
		_, err := get(t, w.boot(other, mine), "kbs:///default/secret/1")
		if err == nil || !strings.Contains(err.Error(), "initdata-mismatch") {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnboundAndAbsent(t *testing.T) {
	w := newWorld(t)
	doc := w.document("mine")
	if _, err := w.ns.PutResource(context.Background(), "default/secret/unbound", []byte("x")); err != nil {
		t.Fatal(err)
	}
	c := w.boot(doc, doc)
	for _, name := range []string{"unbound", "absent"} {
		if v, err := get(t, c, "kbs:///default/secret/"+name); err == nil {
			t.Errorf("%s: got %q", name, v)
		} else {
			t.Log(err)
		}
	}
}

func TestOtherSimulatedRoot(t *testing.T) {
	w := newWorld(t)
	doc := w.document("mine")
	w.secret("default/secret/1", "the secret", doc)
	w.ca = tpmtest.NewCA(t, "another machine's root")
	_, err := get(t, w.boot(doc, doc), "kbs:///default/secret/1")
	if err == nil || !strings.Contains(err.Error(), "tpm-ek-untrusted") {
		t.Errorf("got %v", err)
	}
}
