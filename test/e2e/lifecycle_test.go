package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/test/hostile"
)

// ps gives what coffer ps lists.
func (e *env) ps(t *testing.T, home string) []run.State {
	t.Helper()
	var out []run.State
	if err := json.Unmarshal([]byte(e.must(t, home, "ps", "--output", "json")), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// contains fails unless text holds every piece.
func contains(t *testing.T, what, text string, pieces ...string) {
	t.Helper()
	for _, p := range pieces {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q: %q", what, p, text)
		}
	}
}

// TestLifeOfASealedPod runs the victim of the attacks with coffer run, looks at
// it with every command, attacks it, and stops it.
func TestLifeOfASealedPod(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	trustee := shared.startTrustee(t, home, "")
	file := sealedVictim(t, home)
	p := shared.run(t, home, file)
	tr := track(t, p.cmd.Process.Pid)
	p.waitOutput(fmt.Sprintf("app | secret sha256 %x", sha256.Sum256([]byte("for the victim alone"))))
	p.waitOutput("side | coffer-demo: started")
	contains(t, "output", p.stdout(), "prepare | coffer-demo: started\n", "app | coffer-demo: started\n")

	list := shared.ps(t, home)
	if len(list) != 1 || list[0].Phase != "running" || list[0].Pod != "default/victim" || !list[0].Simulated {
		t.Fatalf("coffer ps: %+v", list)
	}
	ids := map[string]string{}
	for _, c := range list[0].Containers {
		if want := map[bool]string{true: "exited", false: "running"}[c.Init]; c.State != want {
			t.Errorf("container %s is %s, want %s", c.Name, c.State, want)
		}
		ids[c.Name] = c.ID
	}
	contains(t, "coffer ps", shared.must(t, home, "ps"), list[0].ID, "default/victim", "simulated", "app=running", "prepare=exited(Completed)")

	out, errout, code := shared.coffer(t, home, "exec", "victim", "-c", "app", "--", "/demo")
	if code != 123 || out != "" {
		t.Errorf("exec without --allow-exec: exit code %d, output %q", code, out)
	}
	contains(t, "the denied exec's error", errout, "denied: exec-denied", "containers[app].exec")
	if _, errout, code = shared.coffer(t, home, "exec", "victim", "--", "/demo"); code != 2 {
		t.Errorf("exec without a container's name: exit code %d, %s", code, errout)
	}
	if _, errout, code = shared.coffer(t, home, "exec", "nobody", "--", "/demo"); code != 120 {
		t.Errorf("exec in a pod that is not there: exit code %d, %s", code, errout)
	}
	contains(t, "coffer logs", shared.must(t, home, "logs", "victim", "-c", "prepare"), "coffer-demo: started\n")
	follow := follow(t, home, "logs", "-f", "victim", "-c", "app")

	attackRunning(t, trustee, file, list[0].ID, filepath.Join(home, "run", list[0].ID), ids)

	if got := shared.must(t, home, "stop", "victim"); got != list[0].ID+"\n" {
		t.Errorf("coffer stop printed %q", got)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d, want the workload's 0", code)
	}
	contains(t, "output", p.stdout(), "app | coffer-demo: told to stop\n", "side | coffer-demo: told to stop\n")
	contains(t, "coffer logs -f", follow(), "coffer-demo: started\n", "coffer-demo: told to stop\n")
	nothingLeft(t, tr, home)
	if list := shared.ps(t, home); len(list) != 0 {
		t.Errorf("coffer ps after the end: %+v", list)
	}
}

// attackRunning plays the hostile host against a pod that coffer run has running.
func attackRunning(t *testing.T, trustee *trusteeProc, file, id, dir string, ids map[string]string) {
	t.Helper()
	_, plan := openSealed(t, file)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	target, closeTarget, err := hostile.Dial(ctx, filepath.Join(dir, nodeapi.AgentSocket), plan, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeTarget() }()
	target.IDs = ids
	before := trustee.releases()
	// Only a kubelet probes, so this pod has no probe's command; hostileHost's has.
	denied(t, slices.DeleteFunc(target.Running(ctx), func(r hostile.Result) bool {
		return strings.HasPrefix(r.Attack.Name, hostile.ProbeCommand) && r.Denial != nil && r.Denial.Reason == hostile.NotApplicable
	}))
	if err := target.Alive(ctx); err != nil {
		t.Errorf("the workload did not survive: %v", err)
	}
	if n := trustee.releases(); n != before || before == 0 {
		t.Errorf("%d releases before the attacks, %d after", before, n)
	}
}

// follow runs a command that lasts as long as the pod; the result gives what it
// has printed in the end.
func follow(t *testing.T, home string, args ...string) func() string {
	t.Helper()
	cmd := shared.command(home, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return func() string {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("coffer %v: %v", args, err)
			}
		case <-time.After(cleanWithin):
			t.Errorf("coffer %v did not end with the pod", args)
			_ = cmd.Process.Kill()
			<-done
		}
		return out.String()
	}
}

// shellPod has a shell that stays.
const shellPod = `apiVersion: v1
kind: Pod
metadata: {name: shell.pod}
spec:
  containers:
  - name: app
    image: busybox
    command: [sh, -c, "echo up; while :; do sleep 1; done"]
    env: [{name: COLOUR, value: blue}]
    workingDir: /tmp
`

// TestExecAndKill runs commands in a pod that allows it, then kills coffer run
// without a chance to clean up.
func TestExecAndKill(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	cmd := shared.command(home, "run", "-d", "--tee", "tpm-sim", "--allow-exec", "--registries", shared.registries, write(t, home, "pod.yaml", shellPod))
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr := track(t, cmd.Process.Pid)
	stop := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("coffer run --detach: %v\n%s", err, errout.String())
	}
	id := strings.TrimSpace(out.String())
	list := shared.ps(t, home)
	if len(list) != 1 || list[0].ID != id || !strings.HasPrefix(id, "shell-pod-") {
		t.Fatalf("coffer run --detach printed %q, coffer ps %+v", id, list)
	}
	kill := func() { _ = syscall.Kill(list[0].PID, syscall.SIGKILL) }
	t.Cleanup(kill)
	for deadline := time.Now().Add(patience); !strings.Contains(shared.must(t, home, "logs", id), "up\n"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no log line")
		}
	}

	for _, c := range []struct {
		name        string
		stdin       string
		flags, args []string
		out, err    string
		code        int
	}{
		{name: "environment and folder", args: []string{"sh", "-c", `echo "$COLOUR in $(pwd)"`}, out: "blue in /tmp\n"},
		{name: "exit code", args: []string{"sh", "-c", "exit 42"}, code: 42},
		{name: "standard error", args: []string{"sh", "-c", "echo wrong >&2; exit 3"}, err: "wrong\n", code: 3},
		{name: "standard input", flags: []string{"-i"}, stdin: "one\ntwo\n", args: []string{"sh", "-c", "cat; echo end"}, out: "one\ntwo\nend\n"},
		{name: "no standard input", stdin: "never", args: []string{"cat"}},
		{name: "a terminal", flags: []string{"-t"}, args: []string{"sh", "-c", "test -t 0 && test -t 1 && echo terminal"}, out: "terminal\r\n"},
		{name: "killed by a signal", args: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{name: "no such program", args: []string{"/nonexistent"}, code: 127, err: "/nonexistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(append(append([]string{"exec", id}, c.flags...), "--"), c.args...)
			cmd := shared.command(home, args...)
			var out, errout bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &out, &errout
			stop := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
			defer stop.Stop()
			err := cmd.Run()
			var ee *exec.ExitError
			if err != nil && !errors.As(err, &ee) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if out.String() != c.out || !strings.Contains(errout.String(), c.err) || c.err == "" && errout.Len() > 0 {
				t.Errorf("stdout %q, want %q; stderr %q, want %q", out.String(), c.out, errout.String(), c.err)
			}
		})
	}

	if len(tr.pids("qemu")) != 1 || len(tr.pids("swtpm")) != 1 || len(tr.pids("coffer-trustee")) != 1 {
		t.Fatalf("the tracker sees %v", tr.left())
	}
	kill()
	nothingLeft(t, tr, home)
	if list := shared.ps(t, home); len(list) != 0 {
		t.Errorf("coffer ps after kill -9: %+v", list)
	}
}
