package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/nodeapi"
)

// running is a pod in the background.
type running struct {
	cmd    *exec.Cmd
	runDir string
	done   chan struct{}
	mu     sync.Mutex
	out    bytes.Buffer
	err    bytes.Buffer
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// whileRunning runs a sealed pod, calls f, and stops the pod.
func (d *demo) whileRunning(_ context.Context, pod string, f func(*running) error) error {
	args := []string{"run", "--tee", d.tee, "--platform", d.platform, "--registries", d.file("registries.conf"), pod}
	fmt.Printf("      $ coffer %s\n", strings.Join(d.short(args), " "))
	p := &running{cmd: exec.Command(filepath.Join(d.bin, "coffer"), args...), runDir: filepath.Join(d.dir, "run"), done: make(chan struct{})}
	p.cmd.Env = d.environ()
	p.cmd.Stdout = io.MultiWriter(locked{&p.mu, &p.out}, &indent{w: os.Stdout})
	p.cmd.Stderr = io.MultiWriter(locked{&p.mu, &p.err}, &indent{w: os.Stdout})
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	err := f(p)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		err = errors.Join(err, errors.New("coffer run did not end on SIGTERM"))
	}
	return err
}

func (p *running) stderr() string { p.mu.Lock(); defer p.mu.Unlock(); return p.err.String() }

// waitOutput waits until the workload has printed want.
func (p *running) waitOutput(want string) error {
	deadline := time.After(2 * time.Minute)
	for {
		p.mu.Lock()
		hit := strings.Contains(p.out.String(), want)
		p.mu.Unlock()
		if hit {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the pod ended before it printed %q", want)
		case <-deadline:
			return fmt.Errorf("the pod did not print %q within 2 minutes", want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// refuseCalls speaks to the guest agent as the host can: directly.
func (d *demo) refuseCalls(ctx context.Context, p *running) error {
	socks, err := filepath.Glob(filepath.Join(p.runDir, "*", nodeapi.AgentSocket))
	if err != nil || len(socks) != 1 {
		return fmt.Errorf("found %d agent sockets, want one", len(socks))
	}
	conn, err := net.Dial("unix", socks[0])
	if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	agent := agentpb.NewAgentServiceClient(c)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	id := strings.Repeat("e", 64)
	app, err := d.containerID(p)
	if err != nil {
		return err
	}
	calls := []struct {
		what string
		do   func() error
	}{
		{"exec of /bin/sh", func() error {
			_, err := agent.ExecProcess(ctx, &agentpb.ExecProcessRequest{ContainerId: app, ExecId: "evil",
				Process: &agentpb.Process{Args: []string{"/bin/sh"}, Cwd: "/", User: &agentpb.User{}}})
			return err
		}},
		{"an extra container", func() error {
			_, err := agent.CreateContainer(ctx, &agentpb.CreateContainerRequest{ContainerId: id, OCI: &agentpb.Spec{
				Process:     &agentpb.Process{Args: []string{"/steal"}, Cwd: "/", User: &agentpb.User{}},
				Root:        &agentpb.Root{Path: "/run/kata-containers/" + id + "/rootfs"},
				Annotations: map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "evil"},
				Linux:       &agentpb.Linux{},
			}})
			return err
		}},
	}
	for _, call := range calls {
		err := call.do()
		if err == nil {
			return fmt.Errorf("the guest allowed %s", call.what)
		}
		if !strings.Contains(err.Error(), "PermissionDenied") || !strings.Contains(err.Error(), `"component":"pod-policy"`) {
			return fmt.Errorf("%s failed, but not by a denial: %w", call.what, err)
		}
		fmt.Printf("      | host: %s\n      | guest: %v\n", call.what, err)
	}
	select {
	case <-p.done:
		return errors.New("the pod ended over it")
	default:
	}
	fmt.Println("      both denied by the pod policy in the guest; the pod goes on")
	return nil
}

// containerID reads the container's id where any process of the host's root
// could; a wrong id would be refused for the wrong reason.
func (d *demo) containerID(p *running) (string, error) {
	states, err := filepath.Glob(filepath.Join(p.runDir, "*", "state.json"))
	if err != nil || len(states) != 1 {
		return "", fmt.Errorf("found %d state files, want one", len(states))
	}
	b, err := os.ReadFile(states[0])
	if err != nil {
		return "", err
	}
	var s struct {
		Containers []struct {
			ID string `json:"id"`
		} `json:"containers"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return "", err
	}
	if len(s.Containers) != 1 || s.Containers[0].ID == "" {
		return "", fmt.Errorf("%s names no running container", states[0])
	}
	return s.Containers[0].ID, nil
}
