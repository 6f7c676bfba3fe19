package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/sandbox"
)

// fake is a driver whose sandboxes live until destroyed; with err it has none.
type fake struct {
	err  error
	done chan struct{}
	once sync.Once
}

func (f *fake) Launch(_ context.Context, _, _ string, _ *launch.Spec, progress func(string)) (sandbox.Sandbox, error) {
	progress("launching")
	if f.err != nil {
		return nil, f.err
	}
	f.done = make(chan struct{})
	return f, nil
}

func (f *fake) Dial(context.Context, byte) (net.Conn, error) { return nil, net.ErrClosed }
func (f *fake) PIDs() map[string]int                         { return map[string]int{"qemu": 7} }
func (f *fake) Wait() sandbox.Exit                           { <-f.done; return sandbox.Exit{Reason: nodeapi.ReasonDestroyed} }
func (f *fake) Destroy() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

type consoleError struct{}

func (consoleError) Error() string       { return "no luck" }
func (consoleError) ConsoleTail() string { return "last line\n" }

// run gives the events of one Run over the request; at ready its input ends.
func run(t *testing.T, d sandbox.Driver, request any) ([]nodeapi.Event, error) {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	errc := make(chan error, 1)
	go func() {
		errc <- Run(context.Background(), inR, outW, func(*nodeapi.Request) (sandbox.Driver, error) { return d, nil })
		outW.Close()
	}()
	go func() {
		if s, ok := request.(string); ok {
			io.WriteString(inW, s)
			return
		}
		json.NewEncoder(inW).Encode(request)
	}()
	var evs []nodeapi.Event
	for sc := bufio.NewScanner(outR); sc.Scan(); {
		var e nodeapi.Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if evs = append(evs, e); e.Type == nodeapi.Ready {
			inW.Close()
		}
	}
	return evs, <-errc
}

func request(t *testing.T) *nodeapi.Request {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &nodeapi.Request{ID: "a-1", RunDir: dir}
}

func types(evs []nodeapi.Event) string {
	var s []string
	for _, e := range evs {
		s = append(s, e.Type)
	}
	return strings.Join(s, " ")
}

func TestLifeCycle(t *testing.T) {
	r := request(t)
	r.Launch = launch.Spec{TEE: launch.SNPSim, Kernel: launch.File{Path: "/vmlinuz"}, Cmdline: "quiet", VCPUs: 3, MemoryMiB: 512, Initdata: []byte("document")}
	evs, err := run(t, &fake{}, r)
	if err != nil || types(evs) != "progress ready exited" {
		t.Fatalf("%v, %v", evs, err)
	}
	// What it launched, for whoever must explain a measurement.
	r.Launch.Initdata = nil
	if l := evs[1].Launched; l == nil || !reflect.DeepEqual(*l, r.Launch) {
		t.Errorf("launched %+v", l)
	}
	if evs[1].PIDs["qemu"] != 7 || evs[2].Reason != nodeapi.ReasonDestroyed {
		t.Errorf("%+v", evs)
	}
}

func TestLaunchFails(t *testing.T) {
	evs, err := run(t, &fake{err: consoleError{}}, request(t))
	if !errors.Is(err, ErrFailed) || types(evs) != "progress failed" {
		t.Fatalf("%v, %v", evs, err)
	}
	if e := evs[1]; e.Error != "no luck" || e.Console != "last line\n" {
		t.Errorf("%+v", e)
	}
}

func TestBadRequests(t *testing.T) {
	open := request(t)
	if err := os.Chmod(open.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	relative := request(t)
	relative.RunDir = "run"
	badID := request(t)
	badID.ID = "A"
	for name, r := range map[string]any{
		"garbage": "}", "unknown field": `{"x":1}`, "wrong type": `{"id":1}`,
		"endless":        `{"id":"` + strings.Repeat("a", maxRequest),
		"open directory": open, "relative directory": relative, "id": badID,
	} {
		t.Run(name, func(t *testing.T) {
			evs, err := run(t, &fake{}, r)
			if !errors.Is(err, ErrFailed) || types(evs) != "failed" || evs[0].Error == "" {
				t.Errorf("%v, %v", evs, err)
			}
		})
	}
}
