package agent_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/test/agentns"
)

// BenchmarkContainer runs one container from CreateContainer to its removal,
// image pull excepted; its start is the part up to the workload's execve.
func BenchmarkContainer(b *testing.B) {
	c := app("once", "exit", "0")
	c.Restart = "Always"
	policy := &podpolicy.Policy{
		Version: podpolicy.Version, Pod: "default/bench", Hostname: "bench",
		Sandbox: podpolicy.Sandbox{ResolvConf: "none", ShmBytes: 1 << 20}, Containers: []podpolicy.Container{c},
	}
	a := agentns.Start(b, policy, agentns.Layer(b))
	ctx := context.Background()
	if _, err := a.CreateSandbox(ctx, policy.CreateSandboxRequest("pod1", nil)); err != nil {
		b.Fatal(err)
	}
	n := 0
	var starting int64
	for b.Loop() {
		n++
		id := fmt.Sprintf("c%d", n)
		begin := b.Elapsed()
		if _, err := a.CreateContainer(ctx, policy.CreateContainerRequest(&policy.Containers[0], id, "pod1", env(&policy.Containers[0], nil))); err != nil {
			b.Fatal(err)
		}
		if _, err := a.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
			b.Fatal(err)
		}
		starting += int64(b.Elapsed() - begin)
		if _, err := a.Wait(ctx, id, ""); err != nil {
			b.Fatal(err)
		}
		if _, err := a.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: id}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(starting)/float64(n), "start-ns/op")
}
