package cri

import (
	"os"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRemoveStopped removes what a kubelet removes once a minute: the sandboxes of pods
// that are gone.
func TestRemoveStopped(t *testing.T) {
	if os.Getenv("COFFER_CRI_REMOVE") != "1" {
		t.Skip("test/kube starts this test inside its cluster, with COFFER_CRI_REMOVE=1")
	}
	c := cri.NewRuntimeServiceClient(connect(t))
	stopped := &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}}
	l := must[*cri.ListPodSandboxResponse](t)(c.ListPodSandbox(timed(t), &cri.ListPodSandboxRequest{Filter: stopped}))
	for _, s := range l.Items {
		if _, err := c.RemovePodSandbox(timed(t), &cri.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d sandboxes removed", len(l.Items))
}
