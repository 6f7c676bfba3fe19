package cri

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// figures come from the guest for containers, and add up for the pod.
func (w *walk) figures(t *testing.T) {
	ctx := timed(t)
	eventually(t, "figures of memory and CPU", func() (bool, string) {
		s, err := w.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: w.ids["main"]})
		if err != nil {
			return false, err.Error()
		}
		return s.Stats.GetMemory().GetWorkingSetBytes().GetValue() > 0 && s.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0, s.String()
	})
	l := must[*cri.ListContainerStatsResponse](t)(w.ListContainerStats(ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: w.sandbox}}))
	if len(l.Stats) != len(w.ids) {
		t.Errorf("figures of %d containers, want %d", len(l.Stats), len(w.ids))
	}
	p := must[*cri.PodSandboxStatsResponse](t)(w.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: w.sandbox}))
	if p.Stats.GetAttributes().GetId() != w.sandbox {
		t.Errorf("the pod's figures: %v", p)
	}
	lp := must[*cri.ListPodSandboxStatsResponse](t)(w.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{Id: w.sandbox}}))
	if len(lp.Stats) != 1 {
		t.Errorf("figures of %d pods, want 1", len(lp.Stats))
	}
	optional(t, "ListPodSandboxMetrics", func() error {
		_, err := w.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
		return err
	})
	optional(t, "StreamContainerStats", func() error {
		s, err := w.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
	optional(t, "StreamPodSandboxStats", func() error {
		s, err := w.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
	optional(t, "StreamPodSandboxMetrics", func() error {
		s, err := w.StreamPodSandboxMetrics(ctx, &cri.StreamPodSandboxMetricsRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
	if _, err := w.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: "none"}); err == nil {
		t.Error("figures of no container")
	}
}

// resources: limits are sealed, so another one is refused and says so; the VM's size is
// measured, so the pod's stays what it is.
func (w *walk) resources(t *testing.T) {
	ctx := timed(t)
	_, err := w.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: w.ids["main"], Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000}})
	if err == nil {
		t.Error("limits that the owner has not sealed were set")
	} else {
		t.Logf("%v", err)
	}
	_, err = w.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: "none", Linux: &cri.LinuxContainerResources{}})
	refused(t, err, "not found")
	optional(t, "UpdatePodSandboxResources", func() error {
		_, err := w.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: w.sandbox, Resources: &cri.LinuxContainerResources{CpuShares: 4}})
		return err
	})
}
