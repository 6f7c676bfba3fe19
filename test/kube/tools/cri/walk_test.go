package cri

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestWalk calls every RPC of the CRI on one sealed pod, in the order of its life.
func TestWalk(t *testing.T) {
	w := newWalk(t)
	groupOf(t, "walk")
	events := w.listen(t)
	for _, step := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"runtime", w.runtime}, {"images", w.walkImages}, {"sandbox", w.startSandbox}, {"refused containers", w.refusals}, {"containers", w.startContainers},
		{"exec in one call", w.execSync}, {"exec", w.exec}, {"attach", w.attach}, {"port-forward", w.portForward}, {"logs", w.logs}, {"figures", w.figures}, {"resources", w.resources},
		{"checkpoints", w.checkpoints}, {"stop containers", w.stopContainers}, {"stop sandbox", w.stopSandbox},
	} {
		if ok := t.Run(step.name, step.f); !ok && (step.name == "sandbox" || step.name == "containers") {
			break
		}
	}
	if w.sandbox != "" { // whatever failed above
		ctx := timed(t)
		_, _ = w.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: w.sandbox})
		_, _ = w.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.sandbox})
	}
	if t.Failed() {
		return
	}
	eventually(t, "events of the container's whole life", func() (bool, string) {
		seen := events(w.ids["main"])
		want := []string{"CONTAINER_CREATED_EVENT", "CONTAINER_DELETED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT"}
		return slices.Equal(seen, want), strings.Join(seen, " ")
	})
	if m := w.missing(); len(m) > 0 {
		t.Errorf("nobody called %s: the CRI has grown; extend this walk", strings.Join(m, ", "))
	}
}

// groupOf makes the control group of pods, as the kubelet makes it.
func groupOf(t *testing.T, name string) {
	t.Helper()
	parents, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs") // of version 1; containerd reads a pod's figures there
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(parents, "/sys/fs/cgroup/cgroup.procs") {
		if _, err := os.Stat(p); err != nil {
			continue
		}
		group := filepath.Join(filepath.Dir(p), name)
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(group) })
	}
}

// listen collects container events; what it gives tells the kinds of one container's.
func (w *walk) listen(t *testing.T) func(id string) []string {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream := must[cri.RuntimeService_GetContainerEventsClient](t)(w.GetContainerEvents(ctx, &cri.GetEventsRequest{}))
	var mu sync.Mutex
	kinds := map[string]map[string]bool{}
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			mu.Lock()
			if kinds[e.ContainerId] == nil {
				kinds[e.ContainerId] = map[string]bool{}
			}
			kinds[e.ContainerId][e.ContainerEventType.String()] = true
			mu.Unlock()
		}
	}()
	return func(id string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Sorted(maps.Keys(kinds[id]))
	}
}

func (w *walk) runtime(t *testing.T) {
	ctx := timed(t)
	v := must[*cri.VersionResponse](t)(w.Version(ctx, &cri.VersionRequest{Version: "v1"}))
	if v.RuntimeName != "containerd" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version: %v", v)
	}
	t.Logf("containerd %s", v.RuntimeVersion)
	s := must[*cri.StatusResponse](t)(w.Status(ctx, &cri.StatusRequest{Verbose: true}))
	for _, c := range s.Status.Conditions {
		if !c.Status && (c.Type == "RuntimeReady" || c.Type == "NetworkReady") {
			t.Errorf("%s: %s %s", c.Type, c.Reason, c.Message)
		}
	}
	optional(t, "RuntimeConfig", func() error { _, err := w.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{}); return err })
	must[*cri.UpdateRuntimeConfigResponse](t)(w.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{}}))
	optional(t, "ListMetricDescriptors", func() error {
		_, err := w.ListMetricDescriptors(ctx, &cri.ListMetricDescriptorsRequest{})
		return err
	})
}

// optional allows that this containerd does not have an RPC, and no other error.
func optional(t *testing.T, name string, f func() error) {
	t.Helper()
	if err := f(); status.Code(err) == codes.Unimplemented {
		t.Logf("%s: not in this containerd", name)
	} else if err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func (w *walk) walkImages(t *testing.T) {
	ctx := timed(t)
	spec := &cri.ImageSpec{Image: w.pod.Spec.Containers[0].Image, RuntimeHandler: w.handler, Annotations: map[string]string{"io.containerd.cri.runtime-handler": w.handler}}
	ref := must[*cri.PullImageResponse](t)(w.images.PullImage(ctx, &cri.PullImageRequest{Image: spec, SandboxConfig: w.config}))
	st := must[*cri.ImageStatusResponse](t)(w.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: spec.Image}}))
	if st.Image == nil || st.Image.Id != ref.ImageRef && !slices.Contains(st.Image.RepoDigests, ref.ImageRef) {
		t.Errorf("the image that was pulled, %s, has status %v", ref.ImageRef, st.Image)
	}
	l := must[*cri.ListImagesResponse](t)(w.images.ListImages(ctx, &cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: spec.Image}}}))
	if !slices.ContainsFunc(l.Images, func(i *cri.Image) bool { return i.Id == st.Image.GetId() }) { // containerd does not filter
		t.Errorf("the image is not in the list: %v", l.Images)
	}
	optional(t, "StreamImages", func() error {
		s, err := w.images.StreamImages(ctx, &cri.StreamImagesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
	fs := must[*cri.ImageFsInfoResponse](t)(w.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{}))
	if len(fs.ImageFilesystems) == 0 {
		t.Error("no image filesystem")
	}
	none := must[*cri.ImageStatusResponse](t)(w.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "registry.example/none:1"}}))
	if none.Image != nil {
		t.Errorf("an image that is not there has status %v", none.Image)
	}
	_, err := w.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "registry.example/none:1"}})
	refused(t, err, "none:1")
	must[*cri.RemoveImageResponse](t)(w.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "registry.example/none:1"}})) // idempotent
}

func (w *walk) startSandbox(t *testing.T) {
	ctx := timed(t)
	_, err := w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.sandboxConfig("nohandler", nil), RuntimeHandler: "no-such"})
	refused(t, err, "no-such")
	_, err = w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.sandboxConfig("unsealed", nil), RuntimeHandler: w.handler})
	refused(t, err, "seal it with coffer seal")
	began := time.Now()
	w.sandbox = must[*cri.RunPodSandboxResponse](t)(w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config, RuntimeHandler: w.handler})).PodSandboxId
	t.Logf("the sandbox started in %s", time.Since(began))
	_, err = w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.config, RuntimeHandler: w.handler})
	refused(t, err, "reserved")
	st := must[*cri.PodSandboxStatusResponse](t)(w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: w.sandbox, Verbose: true})).Status
	if st.State != cri.PodSandboxState_SANDBOX_READY || st.Network.GetIp() == "" || st.RuntimeHandler != w.handler {
		t.Errorf("status %v", st)
	}
	_, err = w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: "none"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status of none: %v", err)
	}
	ready, not := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}, &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	for _, c := range []struct {
		f    *cri.PodSandboxFilter
		want int
	}{
		{&cri.PodSandboxFilter{Id: w.sandbox}, 1}, {&cri.PodSandboxFilter{Id: w.sandbox, State: ready}, 1}, {&cri.PodSandboxFilter{Id: w.sandbox, State: not}, 0},
		{&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "walk"}}, 1}, {&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "other"}}, 0},
	} {
		if l := must[*cri.ListPodSandboxResponse](t)(w.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: c.f})); len(l.Items) != c.want {
			t.Errorf("filter %v: %d, want %d", c.f, len(l.Items), c.want)
		}
	}
	optional(t, "StreamPodSandboxes", func() error {
		s, err := w.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
}

// refusals are containers that the owner has not sealed, and configurations that no runtime takes.
func (w *walk) refusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*cri.ContainerConfig)
		want   string
	}{
		"undeclared, as kubectl debug makes it": {func(c *cri.ContainerConfig) { c.Metadata.Name = "debugger" }, `container-undeclared: container "debugger"`},
		"another command":                       {func(c *cri.ContainerConfig) { c.Command = []string{"id"} }, "args-mismatch"},
		"another user":                          {func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsUser.Value = 0 }, "user-mismatch"},
		"a variable": {func(c *cri.ContainerConfig) {
			c.Envs = append(c.Envs, &cri.KeyValue{Key: "LD_PRELOAD", Value: []byte("/x")})
		}, "env-unexpected"},
		"a capability": {func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		}, "privilege-mismatch"},
		"a writable root":       {func(c *cri.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = false }, "privilege-mismatch"},
		"new privileges":        {func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NoNewPrivs = false }, "privilege-mismatch"},
		"no masked paths":       {func(c *cri.ContainerConfig) { c.Linux.SecurityContext.MaskedPaths = nil }, "privilege-mismatch"},
		"a limit":               {func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 }, "resource-mismatch"},
		"a mount of the node's": {func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{ContainerPath: "/host", HostPath: "/etc"}} }, "mount-unexpected"},
		"a mount that propagates": {func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/host", HostPath: "/var/lib", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}, "moun"},
		"an image that is not there": {func(c *cri.ContainerConfig) { c.Image.Image = "registry.example/none:1" }, "none:1"},
	} {
		t.Run(name, func(t *testing.T) {
			config := w.container(t, "main")
			c.change(config)
			id, err := w.run(t, config)
			refused(t, err, c.want)
			t.Logf("%v", err)
			if id != "" {
				must[*cri.RemoveContainerResponse](t)(w.RemoveContainer(timed(t), &cri.RemoveContainerRequest{ContainerId: id}))
			}
		})
	}
	_, err := w.CreateContainer(timed(t), &cri.CreateContainerRequest{PodSandboxId: "none", Config: w.container(t, "main"), SandboxConfig: w.config})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a container of no sandbox: %v", err)
	}
}

func (w *walk) startContainers(t *testing.T) {
	ctx := timed(t)
	for i := range w.pod.Spec.Containers {
		name := w.pod.Spec.Containers[i].Name
		id, err := w.run(t, w.container(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.ids[name] = id
	}
	_, err := w.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: w.ids["main"]})
	refused(t, err, "CONTAINER_RUNNING")
	_, err = w.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: w.sandbox, Config: w.container(t, "main"), SandboxConfig: w.config})
	refused(t, err, "reserved")
	st := must[*cri.ContainerStatusResponse](t)(w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: w.ids["main"], Verbose: true})).Status
	if st.State != cri.ContainerState_CONTAINER_RUNNING || st.StartedAt == 0 || st.LogPath != logFile("main") {
		t.Errorf("status %v", st)
	}
	if _, err := w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("status of none: %v", err)
	}
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	for _, c := range []struct {
		f    *cri.ContainerFilter
		want int
	}{
		{&cri.ContainerFilter{PodSandboxId: w.sandbox}, len(w.ids)}, {&cri.ContainerFilter{PodSandboxId: w.sandbox, State: running}, len(w.ids)}, {&cri.ContainerFilter{Id: w.ids["main"]}, 1},
		{&cri.ContainerFilter{PodSandboxId: w.sandbox, LabelSelector: map[string]string{"container": "main"}}, 1}, {&cri.ContainerFilter{Id: w.ids["main"], PodSandboxId: "none"}, 0},
	} {
		if l := must[*cri.ListContainersResponse](t)(w.ListContainers(ctx, &cri.ListContainersRequest{Filter: c.f})); len(l.Containers) != c.want {
			t.Errorf("filter %v: %d, want %d", c.f, len(l.Containers), c.want)
		}
	}
	optional(t, "StreamContainers", func() error {
		s, err := w.StreamContainers(ctx, &cri.StreamContainersRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	})
}

var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)$`)

// logs: each line has its time, stream and tag; a long one comes in parts; a file that was
// moved away gets no more once the log was reopened.
func (w *walk) logs(t *testing.T) {
	read := func(path string) (streams map[string]string, parts int) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		streams = map[string]string{}
		for _, l := range strings.SplitAfter(string(b), "\n") {
			if !strings.HasSuffix(l, "\n") {
				continue // is being written
			}
			m := logLine.FindStringSubmatch(strings.TrimSuffix(l, "\n"))
			if m == nil {
				t.Fatalf("%s: a line that is none: %.200q", path, l)
			}
			streams[m[1]] += m[3]
			if m[2] == "F" {
				streams[m[1]] += "\n"
			} else {
				parts++
			}
		}
		return streams, parts
	}
	eventually(t, "both streams in the log", func() (bool, string) {
		s, parts := read(logFile("main"))
		return parts > 0 && strings.Contains(s["stdout"], strings.Repeat("x", 20000)+"\n") && strings.Contains(s["stderr"], "to stderr\n") && !strings.Contains(s["stdout"], "to stderr"), s["stderr"]
	})
	old := logFile("main") + ".1"
	if err := os.Rename(logFile("main"), old); err != nil {
		t.Fatal(err)
	}
	ctx := timed(t)
	must[*cri.ReopenContainerLogResponse](t)(w.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: w.ids["main"]}))
	eventually(t, "lines in the new file", func() (bool, string) { s, _ := read(logFile("main")); return strings.Contains(s["stdout"], "tick"), "" })
	before, _ := os.Stat(old)
	time.Sleep(2 * time.Second)
	if after, err := os.Stat(old); err != nil || after.Size() != before.Size() {
		t.Errorf("the old log still grows: %v", err)
	}
	if _, err := w.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: "none"}); err == nil {
		t.Error("the log of no container was reopened")
	}
}

func (w *walk) checkpoints(t *testing.T) {
	ctx := timed(t)
	dir := t.TempDir()
	if _, err := w.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: w.ids["main"], Location: dir + "/c.tar"}); err == nil {
		t.Error("a TEE's memory was written to the node")
	} else {
		t.Logf("%v", err)
	}
	if _, err := w.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: w.sandbox, OutputPath: dir}); err == nil {
		t.Error("a TEE's memory was written to the node")
	}
	if _, err := w.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: w.config, RuntimeHandler: w.handler}); err == nil {
		t.Error("restored from nothing")
	}
}

func (w *walk) stopContainers(t *testing.T) {
	ctx := timed(t)
	for range 2 { // again: no error
		must[*cri.StopContainerResponse](t)(w.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: w.ids["main"], Timeout: 20}))
	}
	st := must[*cri.ContainerStatusResponse](t)(w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: w.ids["main"]})).Status
	if st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 5 || st.FinishedAt < st.StartedAt { // its trap of SIGTERM
		t.Errorf("status %v", st)
	}
	_, err := w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.ids["main"], Cmd: []string{"id"}})
	refused(t, err, "CONTAINER_EXITED")
	for range 2 {
		must[*cri.RemoveContainerResponse](t)(w.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: w.ids["main"]}))
	}
	if _, err := w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: w.ids["main"]}); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v", err)
	}
}

// stopSandbox stops a pod whose other containers still run.
func (w *walk) stopSandbox(t *testing.T) {
	ctx := timed(t)
	for range 2 {
		must[*cri.StopPodSandboxResponse](t)(w.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: w.sandbox}))
	}
	st := must[*cri.PodSandboxStatusResponse](t)(w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: w.sandbox})).Status
	if st.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status %v", st)
	}
	for range 2 {
		must[*cri.RemovePodSandboxResponse](t)(w.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: w.sandbox}))
	}
	if l := must[*cri.ListContainersResponse](t)(w.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: w.sandbox}})); len(l.Containers) != 0 {
		t.Errorf("%d containers outlive their sandbox", len(l.Containers))
	}
	must[*cri.StopPodSandboxResponse](t)(w.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: w.sandbox}))
	if _, err := w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: w.sandbox}); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed sandbox: %v", err)
	}
	if err := os.RemoveAll("/var/log/pods/walk"); err != nil {
		t.Error(err)
	}
}
