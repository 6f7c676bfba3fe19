package podpolicy

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/agentpb"
)

func TestNoPolicyDeniesAllButQueries(t *testing.T) {
	e := NewEnforcer(nil)
	for _, r := range everyRequest() {
		switch r.(type) {
		case *agentpb.GuestDetailsRequest, *agentpb.GetOOMEventRequest, *agentpb.ListInterfacesRequest, *agentpb.ListRoutesRequest, *agentpb.DestroySandboxRequest:
			allow(t, e, r)
		default:
			refuse(t, e, r, NoPolicy, "")
		}
	}
}

func TestSandboxFirstAndOnce(t *testing.T) {
	e, p := mustEnforcer(t)
	refuse(t, e, create(p, "prepare", "c1"), OutOfOrder, "CreateContainerRequest")
	g := pend(t, e, p.CreateSandboxRequest("pod1", testDNS))
	refuse(t, e, p.CreateSandboxRequest("pod1", testDNS), Replayed, "sandbox")
	g.Done(errors.New("no memory"))
	allow(t, e, p.CreateSandboxRequest("pod1", testDNS))
	refuse(t, e, p.CreateSandboxRequest("pod1", testDNS), Replayed, "sandbox")
	allow(t, e, &agentpb.DestroySandboxRequest{})
	refuse(t, e, create(p, "prepare", "c1"), OutOfOrder, "CreateContainerRequest")
}

func TestInitContainersStrictlyFirst(t *testing.T) {
	e, p := mustEnforcer(t)
	deliver(t, e, p)
	refuse(t, e, create(p, "app", "c1"), OutOfOrder, "containers[app]")
	refuse(t, e, create(p, "check", "c1"), OutOfOrder, "init_containers[check]")
	g := allow(t, e, create(p, "prepare", "c1"))
	if !g.Init || g.Container.Name != "prepare" || len(g.Volumes) != 7 || len(g.Env) != 2 {
		t.Fatalf("grant %+v", g)
	}
	refuse(t, e, create(p, "prepare", "c2"), ContainerRunning, "init_containers[prepare]")
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "c1"})
	refuse(t, e, create(p, "check", "c2"), OutOfOrder, "init_containers[check]")
	e.Exited("c1", "", 1)
	refuse(t, e, create(p, "check", "c2"), OutOfOrder, "init_containers[check]")
	refuse(t, e, create(p, "prepare", "c1"), Replayed, "container_id")
	allow(t, e, create(p, "prepare", "c2")) // restart: OnFailure, the failed one still there
	e.Exited("c2", "", 0)                   // never started: this is no success
	refuse(t, e, create(p, "check", "c3"), OutOfOrder, "init_containers[check]")
	allow(t, e, &agentpb.RemoveContainerRequest{ContainerId: "c2"})
	allow(t, e, create(p, "prepare", "c3"))
	g = pend(t, e, &agentpb.StartContainerRequest{ContainerId: "c3"})
	e.Exited("c3", "", 0) // before Start's answer
	g.Done(nil)
	refuse(t, e, create(p, "prepare", "c4"), Replayed, "init_containers[prepare]")
	allow(t, e, create(p, "check", "c5"))
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "c5"})
	e.Exited("c5", "", 3)
	refuse(t, e, create(p, "check", "c6"), RestartDenied, "init_containers[check]")
	refuse(t, e, create(p, "app", "c6"), OutOfOrder, "containers[app]")
}

func TestRestartsFollowThePolicy(t *testing.T) {
	e, p := mustEnforcer(t)
	startAll(t, e, p)
	refuse(t, e, create(p, "app", "app-2"), ContainerRunning, "containers[app]")
	e.Exited("app-1", "", 0)
	refuse(t, e, create(p, "app", "app-2"), RestartDenied, "containers[app]")
	allow(t, e, &agentpb.RemoveContainerRequest{ContainerId: "app-1"})
	refuse(t, e, create(p, "app", "app-2"), RestartDenied, "containers[app]")
	refuse(t, e, &agentpb.StartContainerRequest{ContainerId: "app-1"}, UnknownContainer, "container_id")
	for i, id := range []string{"side-1", "side-2", "side-3"} {
		e.Exited(id, "", i)
		next := string("234"[i])
		g := pend(t, e, create(p, "side", "side-"+next))
		refuse(t, e, create(p, "side", "other"), ContainerRunning, "containers[side]")
		g.Done(errors.New("image not there"))
		allow(t, e, create(p, "side", "side-"+next))
		g = pend(t, e, &agentpb.StartContainerRequest{ContainerId: "side-" + next})
		refuse(t, e, &agentpb.StartContainerRequest{ContainerId: "side-" + next}, Replayed, "containers[side]")
		g.Done(errors.New("no such file"))
		allow(t, e, &agentpb.StartContainerRequest{ContainerId: "side-" + next})
		allow(t, e, &agentpb.RemoveContainerRequest{ContainerId: id})
	}
}

func TestRemovedAliveIsNoSuccess(t *testing.T) {
	e, p := mustEnforcer(t)
	deliver(t, e, p)
	allow(t, e, create(p, "prepare", "c1"))
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "c1"})
	allow(t, e, &agentpb.RemoveContainerRequest{ContainerId: "c1"})
	e.Exited("c1", "", 0)
	refuse(t, e, create(p, "check", "c2"), OutOfOrder, "init_containers[check]")
	allow(t, e, create(p, "prepare", "c2"))
}

func TestReservedContainerIDs(t *testing.T) {
	e, p := mustEnforcer(t)
	deliver(t, e, p)
	for _, id := range []string{"", "shared", "sandbox", "pod1", "a/b", "..", "a.b", "-a"} {
		refuse(t, e, create(p, "prepare", id), BadID, "container_id")
	}
}

func TestProcesses(t *testing.T) {
	e, p := mustEnforcer(t)
	startAll(t, e, p)
	app, side := &p.Containers[0], &p.Containers[1]
	exec := func(c *Container, id string, args []string, tty bool) *agentpb.ExecProcessRequest {
		return p.ExecProcessRequest(c, c.Name+"-1", id, args, testEnv, tty)
	}
	allow(t, e, exec(app, "x1", []string{"date"}, false))
	refuse(t, e, exec(app, "x1", []string{"date"}, false), Replayed, "containers[app].exec_id")
	refuse(t, e, exec(app, "app-1", []string{"date"}, false), BadID, "containers[app].exec_id")
	refuse(t, e, exec(app, "x2", []string{"date", "-s"}, false), ExecDenied, "containers[app].exec")
	refuse(t, e, exec(app, "x2", []string{"date"}, true), ExecDenied, "containers[app].exec")
	g := allow(t, e, exec(app, "x2", []string{"sh"}, true))
	if g.Env[2] != "TERM=xterm" || !g.Terminal {
		t.Fatalf("grant %+v", g)
	}
	r := exec(app, "x3", []string{"date"}, false)
	r.Process.Env = append(r.Process.Env, "LD_PRELOAD=/tmp/x.so")
	refuse(t, e, r, EnvUnexpected, "containers[app].env[LD_PRELOAD]")
	r = exec(app, "x3", []string{"date"}, false)
	r.Process.User.UID = 0
	refuse(t, e, r, UserMismatch, "containers[app].user.uid")
	r = exec(app, "x3", []string{"date"}, false)
	r.Process.Cwd = "/tmp"
	refuse(t, e, r, ArgsMismatch, "containers[app].cwd")
	allow(t, e, exec(side, "x1", []string{"cat"}, false))

	write := func(id, execID string) *agentpb.WriteStreamRequest {
		return &agentpb.WriteStreamRequest{ContainerId: id, ExecId: execID, Data: []byte("x")}
	}
	refuse(t, e, write("app-1", ""), StdinDenied, "containers[app].stdin")
	refuse(t, e, write("app-1", "x1"), StdinDenied, "containers[app].stdin")
	allow(t, e, write("app-1", "x2"))
	allow(t, e, write("side-1", "side-1"))
	allow(t, e, write("side-1", "x1"))
	refuse(t, e, write("side-1", "x2"), UnknownProcess, "containers[side].exec_id")

	resize := func(id, execID string) *agentpb.TtyWinResizeRequest {
		return &agentpb.TtyWinResizeRequest{ContainerId: id, ExecId: execID, Row: 24, Column: 80}
	}
	refuse(t, e, resize("app-1", ""), RequestNotAllowed, "containers[app].terminal")
	allow(t, e, resize("side-1", ""))
	allow(t, e, resize("app-1", "x2"))

	read := func(id, execID string) *agentpb.ReadStreamRequest {
		return &agentpb.ReadStreamRequest{ContainerId: id, ExecId: execID, Len: 100}
	}
	if allow(t, e, read("app-1", "")).Drain || !allow(t, e, read("side-1", "")).Drain || allow(t, e, read("side-1", "x1")).Drain {
		t.Fatal("drain exactly what the policy keeps from the host")
	}
	for sig, ok := range map[uint32]bool{15: true, 9: true, 1: false, 0: false} {
		r := &agentpb.SignalProcessRequest{ContainerId: "app-1", Signal: sig}
		if ok {
			allow(t, e, r)
		} else {
			refuse(t, e, r, SignalDenied, "containers[app].signals")
		}
	}
	e.Exited("app-1", "", 0)
	refuse(t, e, exec(app, "x9", []string{"date"}, false), OutOfOrder, "containers[app].exec")
	allow(t, e, &agentpb.WaitProcessRequest{ContainerId: "app-1", ExecId: "x1"})
	allow(t, e, &agentpb.CloseStdinRequest{ContainerId: "app-1"})
	allow(t, e, &agentpb.StatsContainerRequest{ContainerId: "side-1"})
	allow(t, e, &agentpb.UpdateContainerRequest{ContainerId: "side-1", Resources: &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{Limit: 5}}})
	refuse(t, e, &agentpb.UpdateContainerRequest{ContainerId: "side-1", Resources: &agentpb.LinuxResources{Memory: &agentpb.LinuxMemory{DisableOOMKiller: true}}}, ResourceMismatch, "")
	allow(t, e, &agentpb.GetDiagnosticDataRequest{ContainerId: "app-1", LogType: "termination_log"})
	refuse(t, e, &agentpb.GetDiagnosticDataRequest{ContainerId: "side-1", LogType: "termination_log"}, RequestNotAllowed, "containers[side].logs")
	allow(t, e, &agentpb.VolumeStatsRequest{VolumeGuestPath: LocalDir + "/scratch"})
	refuse(t, e, &agentpb.VolumeStatsRequest{VolumeGuestPath: "/"}, PathDenied, "")
}

// TestConcurrentHost: of many equal requests at once, one is granted.
func TestConcurrentHost(t *testing.T) {
	e, p := mustEnforcer(t)
	deliver(t, e, p)
	var granted atomic.Int32
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			g, err := e.Authorize(create(p, "prepare", "c"+strconv.Itoa(i)))
			if err == nil {
				granted.Add(1)
				time.Sleep(time.Millisecond)
				g.Done(nil)
			}
			_, _ = e.Authorize(&agentpb.WaitProcessRequest{ContainerId: "c" + strconv.Itoa(i)})
		})
	}
	wg.Wait()
	if n := granted.Load(); n != 1 {
		t.Errorf("%d granted, want 1", n)
	}
}
