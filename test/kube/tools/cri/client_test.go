// Package cri walks the Container Runtime Interface as a kubelet's client sees it: a
// sealed pod of Coffer's on a real containerd. test/kube builds this package's test and
// runs it inside the cluster's namespaces. COFFER_CRI_POD names the sealed manifest.
package cri

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// patience bounds each call: emulated guests on a busy machine are slow.
const patience = 150 * time.Second

// walk is a client that remembers what it has called.
type walk struct {
	cri.RuntimeServiceClient
	images cri.ImageServiceClient

	mu     sync.Mutex
	called map[string]bool

	pod     *corev1.Pod
	handler string
	config  *cri.PodSandboxConfig
	sandbox string            // the sealed pod's
	ids     map[string]string // of its containers, by name
}

func newWalk(t *testing.T) *walk {
	path := os.Getenv("COFFER_CRI_POD")
	if path == "" {
		t.Skip("test/kube starts this test inside its cluster, with COFFER_CRI_POD")
	}
	w := &walk{called: map[string]bool{}, ids: map[string]string{}, pod: new(corev1.Pod)}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(b, w.pod); err != nil {
		t.Fatal(err)
	}
	w.handler = *w.pod.Spec.RuntimeClassName
	note := func(method string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.called[method] = true
	}
	conn := connect(t,
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, q, a any, c *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			note(method)
			return call(ctx, method, q, a, c, o...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			note(method)
			return open(ctx, d, c, method, o...)
		}))
	w.RuntimeServiceClient, w.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	w.config = w.sandboxConfig("walk", w.pod.Annotations)
	return w
}

func connect(t *testing.T, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:///run/containerd/containerd.sock", append(o, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// missing lists the RPCs of both services that nobody has called.
func (w *walk) missing() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]bool{}
	for _, d := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range d.Methods {
			all["/"+d.ServiceName+"/"+m.MethodName] = true
		}
		for _, s := range d.Streams {
			all["/"+d.ServiceName+"/"+s.StreamName] = true
		}
	}
	for m := range w.called {
		delete(all, m)
	}
	return slices.Sorted(maps.Keys(all))
}

func (w *walk) sandboxConfig(name string, annotations map[string]string) *cri.PodSandboxConfig {
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"}, Hostname: w.pod.Name,
		LogDirectory: "/var/log/pods/" + name, Labels: map[string]string{"app": name}, Annotations: annotations, DnsConfig: &cri.DNSConfig{},
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/" + name, Sysctls: map[string]string{}, SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces(), Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	}
	if s := w.pod.Spec.SecurityContext; s != nil {
		for _, v := range s.Sysctls {
			c.Linux.Sysctls[v.Name] = v.Value
		}
	}
	return c
}

func namespaces() *cri.NamespaceOption { return &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER} }

// container makes the configuration that a kubelet would make of the manifest's container.
func (w *walk) container(t *testing.T, name string) *cri.ContainerConfig {
	t.Helper()
	i := slices.IndexFunc(w.pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("the manifest has no container %s", name)
	}
	c := &w.pod.Spec.Containers[i]
	sc := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(), Capabilities: &cri.Capability{}, Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/bus", "/proc/sys"},
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			sc.RunAsUser = &cri.Int64Value{Value: *s.RunAsUser}
		}
		if s.RunAsGroup != nil {
			sc.RunAsGroup = &cri.Int64Value{Value: *s.RunAsGroup}
		}
		sc.ReadonlyRootfs = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
		sc.NoNewPrivs = s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation
		if s.Capabilities != nil {
			for _, d := range s.Capabilities.Drop {
				sc.Capabilities.DropCapabilities = append(sc.Capabilities.DropCapabilities, string(d))
			}
		}
	}
	out := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image}, Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir,
		Labels: map[string]string{"container": name}, LogPath: name + ".log", Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000}, SecurityContext: sc},
	}
	for _, e := range c.Env {
		out.Envs = append(out.Envs, &cri.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	return out
}

func timed(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// run creates and starts a container; the error is that of whichever refused.
func (w *walk) run(t *testing.T, c *cri.ContainerConfig) (string, error) {
	t.Helper()
	ctx := timed(t)
	a, err := w.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: w.sandbox, Config: c, SandboxConfig: w.config})
	if err != nil {
		return "", err
	}
	_, err = w.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: a.ContainerId})
	return a.ContainerId, err
}

func must[A any](t *testing.T) func(A, error) A {
	t.Helper()
	return func(a A, err error) A {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
}

// refused demands an error that says what.
func refused(t *testing.T, err error, what string) {
	t.Helper()
	if err == nil {
		t.Errorf("allowed; want a refusal with %q", what)
	} else if !strings.Contains(err.Error(), what) {
		t.Errorf("refused with %q (%s); want %q", err, status.Code(err), what)
	}
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() (bool, string)) {
	t.Helper()
	last := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		ok, said := f()
		if ok {
			return
		}
		last = said
	}
	t.Errorf("%s: not within 30 s; last: %s", what, last)
}

// drain reads a stream of lists to its end and counts the elements.
func drain[A any](t *testing.T, recv func() (A, error), count func(A) int) int {
	t.Helper()
	n := 0
	for {
		a, err := recv()
		if err != nil {
			if err.Error() != "EOF" {
				t.Errorf("stream: %v", err)
			}
			return n
		}
		n += count(a)
	}
}

func logFile(c string) string { return fmt.Sprintf("/var/log/pods/walk/%s.log", c) }
