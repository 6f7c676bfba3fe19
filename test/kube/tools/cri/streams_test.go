package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (w *walk) execSync(t *testing.T) {
	ctx := timed(t)
	run := func(script string) *cri.ExecSyncResponse {
		t.Helper()
		return must[*cri.ExecSyncResponse](t)(w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.ids["main"], Cmd: []string{"sh", "-c", script}, Timeout: 60}))
	}
	if r := run("echo out; echo err >&2; exit 7"); r.ExitCode != 7 || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
		t.Errorf("%v", r)
	}
	if r := run("kill -9 $$"); r.ExitCode != 137 {
		t.Errorf("killed: exit code %d, want 137", r.ExitCode)
	}
	// The security context, as the process sees it.
	r := run("id -u; id -g; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; touch /x 2>&1; cat /proc/sys/net/ipv4/ip_local_port_range; hostname; grep -c . /proc/kcore")
	for _, want := range []string{"1000\n1000\n", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Read-only file system", "20000\t60000", w.pod.Name} {
		if !strings.Contains(string(r.Stdout), want) {
			t.Errorf("no %q in\n%s", want, r.Stdout)
		}
	}
	_, err := w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.ids["main"], Cmd: []string{"/no/such"}})
	refused(t, err, "/no/such")
	began := time.Now()
	if _, err := w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.ids["main"], Cmd: []string{"sleep", "600"}, Timeout: 2}); err == nil || time.Since(began) > time.Minute {
		t.Errorf("a time-out of 2 s: %v after %s", err, time.Since(began))
	}
	_, err = w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: "none", Cmd: []string{"id"}})
	refused(t, err, "none")
}

// stream connects to the address that the runtime has given.
func stream(t *testing.T, address string, o remotecommand.StreamOptions) error {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	x, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return x.StreamWithContext(ctx, o)
}

// once is a terminal whose size is told once.
type once chan remotecommand.TerminalSize

func (o once) Next() *remotecommand.TerminalSize {
	if s, ok := <-o; ok {
		return &s
	}
	return nil
}

func (w *walk) exec(t *testing.T) {
	ctx := timed(t)
	open := func(script string, stdin, tty bool) string {
		t.Helper()
		return must[*cri.ExecResponse](t)(w.Exec(ctx, &cri.ExecRequest{
			ContainerId: w.ids["main"], Cmd: []string{"sh", "-c", script}, Stdin: stdin, Tty: tty, Stdout: true, Stderr: !tty,
		})).Url
	}
	var out, errb bytes.Buffer
	err := stream(t, open("wc -l; echo warned >&2; exit 4", true, false), remotecommand.StreamOptions{Stdin: strings.NewReader("a\nb\nc\n"), Stdout: &out, Stderr: &errb})
	var code interface{ ExitStatus() int }
	if !errors.As(err, &code) || code.ExitStatus() != 4 || strings.TrimSpace(out.String()) != "3" || errb.String() != "warned\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errb.String())
	}
	out.Reset()
	keyboard, hand := io.Pipe() // open as long as the command runs, as a person's is
	defer hand.Close()
	size := make(once, 1)
	size <- remotecommand.TerminalSize{Width: 91, Height: 27}
	err = stream(t, open("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; stty size; done; test -t 0 && echo a terminal", true, true), remotecommand.StreamOptions{
		Stdin: keyboard, Stdout: &out, Tty: true, TerminalSizeQueue: size,
	})
	close(size)
	if err != nil || !strings.Contains(out.String(), "27 91\r\n") || !strings.Contains(out.String(), "a terminal") {
		t.Errorf("terminal: %v, %q", err, out.String())
	}
	if _, err := w.Exec(ctx, &cri.ExecRequest{ContainerId: "none", Cmd: []string{"id"}, Stdout: true}); err == nil {
		t.Error("an exec in no container")
	}
}

// shared is a buffer that is read while it is written.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// attach: to a terminal, twice, and to a process whose input ends with the first client's.
func (w *walk) attach(t *testing.T) {
	ctx := timed(t)
	for _, word := range []string{"first", "second"} {
		a := must[*cri.AttachResponse](t)(w.Attach(ctx, &cri.AttachRequest{ContainerId: w.ids["shell"], Stdin: true, Stdout: true, Tty: true}))
		in, feed := io.Pipe()
		out := new(shared)
		done := make(chan error, 1)
		go func() {
			done <- stream(t, a.Url, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true})
		}()
		_, _ = fmt.Fprintf(feed, "echo $((40+2)) %s\n", word)
		eventually(t, "the shell's answer", func() (bool, string) { return strings.Contains(out.String(), "42 "+word), out.String() })
		_ = feed.Close()
		<-done
	}
	a := must[*cri.AttachResponse](t)(w.Attach(ctx, &cri.AttachRequest{ContainerId: w.ids["once"], Stdin: true, Stdout: true, Stderr: true}))
	out, errb := new(shared), new(shared)
	if err := stream(t, a.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("one\ntwo\n"), Stdout: out, Stderr: errb}); err != nil {
		t.Errorf("attaching: %v", err)
	}
	if !strings.Contains(out.String(), "got one\ngot two\n") || errb.String() != "ended\n" {
		t.Errorf("%q, %q", out.String(), errb.String())
	}
	eventually(t, "the end of a process whose input has ended", func() (bool, string) {
		s, err := w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: w.ids["once"]})
		return err == nil && s.Status.State == cri.ContainerState_CONTAINER_EXITED && s.Status.ExitCode == 3, fmt.Sprint(s, err)
	})
	if _, err := w.Attach(ctx, &cri.AttachRequest{ContainerId: "none", Stdout: true}); err == nil {
		t.Error("attached to no container")
	}
}

// portForward reaches a port of the guest's through the pod's network.
func (w *walk) portForward(t *testing.T) {
	p := must[*cri.PortForwardResponse](t)(w.PortForward(timed(t), &cri.PortForwardRequest{PodSandboxId: w.sandbox, Port: []int32{8080}}))
	u, err := url.Parse(p.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	said := new(shared)
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), []string{"0:8080"}, stop, ready, said, said)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = f.ForwardPorts() }()
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("the runtime does not take the connection")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 20 * time.Second}
	r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		t.Fatalf("%v; %s", err, said)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<10)); !strings.Contains(string(b), "from the guest") {
		t.Errorf("port-forward: %s: %q", r.Status, b)
	}
	if _, err := w.PortForward(timed(t), &cri.PortForwardRequest{PodSandboxId: "none", Port: []int32{8080}}); err == nil {
		t.Error("a port of no sandbox")
	}
}
