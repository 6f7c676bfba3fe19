package agent_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/test/agentns"
)

func TestStdin(t *testing.T) {
	c := app("cat", "cat")
	c.Stdin = true
	p := start(t, agentns.Layer(t), nil, c)
	if err := p.create("cat", "cat", nil); err != nil {
		t.Fatal(err)
	}
	p.startContainer("cat")
	if r, err := p.WriteStdin(ctxFor(t), &agentpb.WriteStreamRequest{ContainerId: "cat", Data: []byte("line\n")}); err != nil || r.Len != 5 {
		t.Fatalf("%v, %v", r, err)
	}
	if _, err := p.CloseStdin(ctxFor(t), &agentpb.CloseStdinRequest{ContainerId: "cat"}); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Output(ctxFor(t), "cat", ""); err != nil || out != "line\neof\n" {
		t.Errorf("output %q, %v", out, err)
	}
}

func TestExec(t *testing.T) {
	c := app("main", "sleep")
	c.Exec = []podpolicy.Exec{{Args: []string{"workload", "id"}}, {Args: []string{"workload", "read", "/proc/1/comm", "/proc/self/cgroup"}}, {Args: []string{"missing"}}, {Args: []string{"workload", "status", "CapBnd", "Seccomp"}}}
	uid := uint32(42)
	c.User.UID = &uid
	p := start(t, agentns.Layer(t), nil, c)
	if err := p.create("main", "main", nil); err != nil {
		t.Fatal(err)
	}
	p.startContainer("main")
	exec := func(id string, args ...string) error {
		r := p.policy.ExecProcessRequest(&p.policy.Containers[0], "main", id, args, env(&c, nil), false)
		_, err := p.ExecProcess(ctxFor(t), r)
		return err
	}
	if err := exec("x1", "workload", "id"); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Output(ctxFor(t), "main", "x1"); err != nil || out != "42 0 [0]\n" {
		t.Errorf("id: %q, %v", out, err)
	}
	if code := p.wait("main", "x1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := exec("x2", "workload", "read", "/proc/1/comm", "/proc/self/cgroup"); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Output(ctxFor(t), "main", "x2"); err != nil || !strings.HasPrefix(out, "workload\n") || !strings.Contains(out, "0::/\n") {
		t.Errorf("namespaces: %q, %v", out, err)
	}
	if err := exec("x3", "missing"); status.Code(err) != codes.NotFound {
		t.Errorf("missing command: %v", err)
	}
	if err := exec("x4", "workload", "echo", "undeclared"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("undeclared command: %v", err)
	}
	if err := exec("x5", "workload", "status", "CapBnd", "Seccomp"); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Output(ctxFor(t), "main", "x5"); err != nil || out != "CapBnd:\t0000000000000021\nSeccomp:\t2\n" {
		t.Errorf("confinement: %q, %v", out, err)
	}
}

func TestTerminal(t *testing.T) {
	c := app("tty", "tty")
	c.Terminal, c.Stdin = true, true
	p := start(t, agentns.Layer(t), nil, c)
	if err := p.create("tty", "tty", nil); err != nil {
		t.Fatal(err)
	}
	resize := func(rows, columns uint32) {
		t.Helper()
		if _, err := p.TtyWinResize(ctxFor(t), &agentpb.TtyWinResizeRequest{ContainerId: "tty", Row: rows, Column: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(24, 80)
	p.startContainer("tty")
	out := ""
	for !strings.Contains(out, "size:") {
		r, err := p.ReadStdout(ctxFor(t), &agentpb.ReadStreamRequest{ContainerId: "tty", Len: 4096})
		if err != nil || len(r.Data) == 0 {
			t.Fatalf("after %q: %v", out, err)
		}
		out += string(r.Data)
	}
	resize(30, 100)
	rest, err := p.Output(ctxFor(t), "tty", "")
	if out += rest; err != nil || out != "tty: true true\r\nsize: 24 80\r\nsize: 30 100\r\n" {
		t.Errorf("output %q, %v", out, err)
	}
}

func TestOutputEndsAlthoughAnOrphanHoldsIt(t *testing.T) {
	p := start(t, agentns.Layer(t), nil, app("orphan", "orphan"), app("flood", "flood", "300000"))
	begin := time.Now()
	p.run("orphan")
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
	if out := p.run("flood"); len(out) != 300000 {
		t.Errorf("%d bytes", len(out))
	}
}

func TestLogsKeptFromTheHost(t *testing.T) {
	c := app("quiet", "flood", "1000000")
	c.Logs = false
	p := start(t, agentns.Layer(t), nil, c)
	if out := p.run("quiet"); out != "" {
		t.Errorf("%d bytes of output", len(out))
	}
	if code := p.wait("quiet", ""); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
