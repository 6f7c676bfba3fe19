package trustee_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/guest/restapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

// A workload asks for versions and waits for the next one, through the guest's REST
// server and key holder, while the owner rotates the secret.
func TestWorkloadSeesRotation(t *testing.T) {
	s, c := start(t)
	ctx, n, ca := t.Context(), c.Namespace("sim"), tpmtest.NewCA(t, "machine")
	doc := document(t, n, s.Client().CAPEM, "pod a")
	sum := sha256.Sum256(doc)
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
	const name = "default/db/password"
	must(n.AddEKRoot(ctx, ca.Root))
	must(n.RegisterReferenceValues(ctx, "build", refs))
	must(n.PutResource(ctx, name, []byte("one")))
	must(n.PutResource(ctx, name, []byte("two")))
	must(n.Bind(ctx, name, trusteeapi.Binding{Initdata: []string{"sha256:" + hex.EncodeToString(sum[:])}}))

	_, socket := runPodAt(t, ca, doc, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- restapi.Run(ctx, restapi.Config{Listener: l, CDHSocket: socket, Logger: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() { <-done })
	ask := func(query string) (status int, body, version string) {
		r, err := http.Get("http://" + l.Addr().String() + "/cdh/resource/" + name + query)
		if err != nil {
			t.Error(err)
			return 0, "", ""
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		return r.StatusCode, string(b), r.Header.Get(kbs.VersionHeader)
	}
	want := func(query string, status int, body, version string) {
		t.Helper()
		if s, b, v := ask(query); s != status || body != "" && b != body || v != version {
			t.Errorf("%s: %d %q version %s; want %d %q %s", query, s, b, v, status, body, version)
		}
	}
	want("", 200, "two", "2")
	want("?version=1", 200, "one", "1")
	want("?version=5", 404, "", "")
	want("?after=2", 304, "", "")

	// Longer than the deadline that other requests of the REST server have.
	began := time.Now()
	want("?after=2&wait=12", 304, "", "")
	if d := time.Since(began); d < 11*time.Second {
		t.Errorf("waited only %s", d)
	}
	heard := make(chan string, 1)
	go func() {
		_, b, v := ask("?after=2&wait=30")
		heard <- b + " " + v
	}()
	time.Sleep(300 * time.Millisecond)
	h, err := n.History(ctx, name)
	must(h, err)
	must(n.PutVersion(ctx, name, []byte("three"), trusteeclient.PutOptions{IfVersion: &h.Version, ExpirePrevious: time.Now()}))
	if got := <-heard; got != "three 3" {
		t.Errorf("heard %q", got)
	}
	want("?version=2", 404, "", "")
	if err := n.ChangeVersion(ctx, name, 3, trusteeapi.ChangeDelete, time.Time{}); err != nil {
		t.Fatal(err)
	}
	want("", 404, "", "")
}
