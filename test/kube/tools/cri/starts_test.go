package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sideBySide is how many pods are at it at the same time. Two cores have work for four: of two
// pods they stand idle two fifths of the time.
const sideBySide = 4

// TestStarts starts the pod of COFFER_CRI_POD, waits until its first container has said
// "here", stops and removes it, COFFER_CRI_STARTS times.
func TestStarts(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("COFFER_CRI_STARTS"))
	if err != nil || n < 1 {
		t.Skip("test/kube starts this test inside its cluster, with COFFER_CRI_STARTS")
	}
	w := newWalk(t)
	groupOf(t, "starts")
	c := w.container(t, w.pod.Spec.Containers[0].Name)
	spec := &cri.ImageSpec{Image: c.Image.Image, RuntimeHandler: w.handler, Annotations: map[string]string{"io.containerd.cri.runtime-handler": w.handler}}
	must[*cri.PullImageResponse](t)(w.images.PullImage(timed(t), &cri.PullImageRequest{Image: spec, SandboxConfig: w.config}))

	numbers := make(chan int)
	var mu sync.Mutex
	var took []time.Duration
	var workers sync.WaitGroup
	for range sideBySide {
		workers.Go(func() {
			for i := range numbers {
				d, err := w.once(i, c)
				if err != nil {
					t.Errorf("start %d: %v", i, err)
					continue
				}
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		if t.Failed() {
			break
		}
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	t.Logf("%d starts, %d at a time: to the first line %s (%s to %s)", len(took), sideBySide, took[len(took)/2], took[0], took[len(took)-1])
}

// once is one pod's life; its time is to the container's first line.
func (w *walk) once(i int, c *cri.ContainerConfig) (_ time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config := w.sandboxConfig(w.pod.Name, w.pod.Annotations)
	config.Metadata.Uid = fmt.Sprintf("start-%d", i)
	config.LogDirectory = "/var/log/pods/" + config.Metadata.Uid
	config.Linux.CgroupParent = "/starts"
	began := time.Now()
	sandbox, err := w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: w.handler})
	if err != nil {
		return 0, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // whatever has become of the other one
		defer cancel()
		_, serr := w.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
		_, rerr := w.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
		for _, e := range []error{serr, rerr, os.RemoveAll(config.LogDirectory)} {
			if err == nil {
				err = e
			}
		}
	}()
	a, err := w.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, Config: c, SandboxConfig: config})
	if err != nil {
		return 0, err
	}
	if _, err := w.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: a.ContainerId}); err != nil {
		return 0, err
	}
	for {
		b, err := os.ReadFile(filepath.Join(config.LogDirectory, c.LogPath))
		if err == nil && strings.Contains(string(b), "here") {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no first line: %q, %v", b, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
