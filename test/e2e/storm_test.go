package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/test/hostile"
)

// stormPod has containers that end at once.
const stormPod = `apiVersion: v1
kind: Pod
metadata: {name: storm}
spec:
  restartPolicy: Always
  containers:
  - {name: a, image: busybox, command: [sh, -c, "echo out; echo err >&2; exit 3"]}
  - {name: b, image: busybox, command: [sh, -c, "exit 4"]}
  - {name: c, image: busybox, command: [sh, -c, "sleep 0.1 & echo out; exit 5"]}
`

// TestStormOfRestarts starts and ends containers side by side, far faster than
// any back-off: every end must be noticed.
func TestStormOfRestarts(t *testing.T) { storm(t, launch.TPMSim) }

// TestProcessStormOfRestarts is the same in a library OS.
func TestProcessStormOfRestarts(t *testing.T) { storm(t, launch.SGXSim) }

func storm(t *testing.T, tee launch.TEE) {
	full(t)
	t.Parallel()
	home := shared.newHome(t)
	shared.startTrustee(t, home, "")
	file, _ := shared.seal(t, home, stormPod, "--tee", string(tee))
	document, plan := openSealed(t, file)
	const id = "storm"
	s := shared.startSandbox(t, home, id, document, plan, tee)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	target, closeTarget, err := hostile.Dial(ctx, filepath.Join(s.dir, nodeapi.AgentSocket), plan, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeTarget() }()
	if err := target.SetUp(ctx); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, c := range plan.Containers {
		wg.Go(func() {
			for n := range 40 {
				cid := fmt.Sprintf("%s%d%s", c.Name, n, strings.Repeat("0", 20))
				out, code, err := once(ctx, target, c, cid, id)
				if err != nil {
					t.Errorf("container %s, round %d: %v", c.Name, n, err)
					return
				}
				if want := map[string]string{"a": "out\n", "b": "", "c": "out\n"}[c.Name]; out != want || code != 3+i {
					t.Errorf("container %s, round %d: output %q, exit code %d", c.Name, n, out, code)
				}
			}
		})
	}
	wg.Wait()
}

// once lives one life of a container. No step may take long.
func once(ctx context.Context, t *hostile.Target, c *spec.Container, cid, sandbox string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if _, err := t.Agent.CreateContainer(ctx, c.Create(cid, sandbox)); err != nil {
		return "", 0, fmt.Errorf("creating: %w", err)
	}
	if _, err := t.Agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: cid}); err != nil {
		return "", 0, fmt.Errorf("starting: %w", err)
	}
	var out bytes.Buffer
	for {
		r, err := t.Agent.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: cid, Len: 4096})
		if err != nil {
			return "", 0, fmt.Errorf("reading: %w", err)
		}
		if len(r.GetData()) == 0 {
			break
		}
		out.Write(r.GetData())
	}
	w, err := t.Agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: cid})
	if err != nil {
		return "", 0, fmt.Errorf("waiting: %w", err)
	}
	if _, err := t.Agent.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: cid}); err != nil {
		return "", 0, fmt.Errorf("removing: %w", err)
	}
	return out.String(), int(w.GetStatus()), nil
}
