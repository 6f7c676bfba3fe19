package shim

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/host/cdi"
)

// gpuNode is a handler's configuration on a node with two GPUs by CDI name.
func gpuNode(t *testing.T, tee launch.TEE) *Config {
	t.Helper()
	root := t.TempDir()
	for name, to := range map[string]string{"vfio0": "../../../0000:65:00.0", "vfio1": "../../../0000:e5:00.0"} {
		dir := filepath.Join(root, "sys/class/vfio-dev", name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(to, filepath.Join(dir, "device"))); err != nil {
			t.Fatal(err)
		}
	}
	text := `{"cdiVersion": "0.6.0", "kind": "nvidia.com/pgpu", "devices": [
{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/devices/vfio0"}]}},
{"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/devices/vfio1"}]}},
{"name": "played", "annotations": {"coffer.simulated-device": "nvidia"},
 "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void", "SEALED=too"], "mounts": [{"hostPath": "/usr/lib/x", "containerPath": "/lib/x"}, {"hostPath": "/srv/data", "containerPath": "/data"}]}}]}`
	if err := os.WriteFile(filepath.Join(root, "gpu.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Config{TEE: tee, Devices: cdi.Allowed{"nvidia.com/pgpu"}, CDIDirs: []string{root}, root: root}
}

func document(tee launch.TEE, demands string) []byte {
	alg, err := initdata.AlgorithmFor(tee.Wire())
	if err != nil {
		panic(err)
	}
	s := "version = \"" + initdata.Version + "\"\nalgorithm = \"" + string(alg) + "\"\n[data]\n"
	if demands != "" {
		s += "\"aa.toml\" = '''\nadditional_devices = [\"" + demands + "\"]\n'''\n"
	}
	return []byte(s)
}

func because(err error) cdi.Reason {
	var e *cdi.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func TestDevicesOfAPod(t *testing.T) {
	annotation := func(v string) map[string]string { return map[string]string{"cdi.k8s.io/vfio": v} }
	for _, c := range []struct {
		name        string
		tee         launch.TEE
		annotations map[string]string
		demands     string
		change      func(*Config)
		host, sim   []string
		reason      cdi.Reason
	}{
		{name: "none", tee: launch.SNP},
		{name: "two", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=1,nvidia.com/pgpu=0"), demands: "nvidia", host: []string{"0000:e5:00.0", "0000:65:00.0"}},
		{name: "tdx", tee: launch.TDX, annotations: annotation("nvidia.com/pgpu=0"), host: []string{"0000:65:00.0"}},
		{name: "simulated", tee: launch.TDXSim, annotations: annotation("nvidia.com/pgpu=played"), demands: "nvidia", sim: []string{"nvidia"}},
		{name: "off by default", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=0"), change: func(c *Config) { c.Devices = nil }, reason: cdi.NotAllowed},
		{name: "another kind", tee: launch.SNP, annotations: annotation("nvidia.com/gpu=0"), reason: cdi.NotAllowed},
		{name: "a single one is allowed", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=0"), change: func(c *Config) { c.Devices = cdi.Allowed{"nvidia.com/pgpu=1"} }, reason: cdi.NotAllowed},
		{name: "no such device", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=7"), reason: cdi.Unknown},
		{name: "a node without specifications", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=0"), change: func(c *Config) { c.CDIDirs = []string{"/nonexistent"} }, reason: cdi.Unknown},
		{name: "a device that is gone", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=0"), change: func(c *Config) { c.root = "/nonexistent" }, reason: cdi.Gone},
		{name: "demanded and not given", tee: launch.SNP, demands: "nvidia", reason: cdi.Missing},
		{name: "a real one beside a simulated TEE", tee: launch.SNPSim, annotations: annotation("nvidia.com/pgpu=0"), reason: cdi.WrongTEE},
		{name: "a simulated one beside hardware", tee: launch.SNP, annotations: annotation("nvidia.com/pgpu=played"), demands: "nvidia", reason: cdi.WrongTEE},
		{name: "a TEE whose guest cannot tell", tee: launch.CCA, annotations: annotation("nvidia.com/pgpu=0"), reason: cdi.WrongTEE},
		{name: "no name", tee: launch.SNP, annotations: annotation("0000:65:00.0"), reason: cdi.BadName},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := gpuNode(t, c.tee)
			if c.change != nil {
				c.change(cfg)
			}
			h := &holder{spec: &launch.Spec{TEE: c.tee}}
			err := h.addDevices(t.Context(), cfg, document(c.tee, c.demands), &podSpec{annotations: c.annotations})
			if because(err) != c.reason || (err != nil) != (c.reason != "") {
				t.Fatalf("%v, want %q", err, c.reason)
			}
			if err == nil && (!slices.Equal(h.spec.HostDevices, c.host) || !slices.Equal(h.spec.SimDevices, c.sim)) {
				t.Errorf("%v and %v are plugged", h.spec.HostDevices, h.spec.SimDevices)
			}
		})
	}
}

// TestDevicesOfAContainer: one that its VM has not is refused before anything reaches
// the guest; what the VM has is no part of what the guest is asked for.
func TestDevicesOfAContainer(t *testing.T) {
	cfg := gpuNode(t, launch.SNP)
	name := cdi.Name{Vendor: "nvidia.com", Class: "pgpu", Device: "0"}
	policy := &podpolicy.Policy{Containers: []podpolicy.Container{{Name: "main"}}}
	s := newService("pod", t.TempDir(), nil, nil, func() {}, slog.New(slog.DiscardHandler))
	s.pod = &pod{config: cfg, policy: policy, devices: cdi.Devices{PCI: []string{"0000:65:00.0"}}, deviceNames: []cdi.Name{name}}
	bundle := func(names, node string) *specs.Spec {
		out := &specs.Spec{
			Annotations: map[string]string{criName: "main", "cdi.k8s.io/vfio": names},
			Process:     &specs.Process{Args: []string{"x"}}, Root: &specs.Root{}, Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/vfio/vfio"}}},
		}
		if node != "" {
			out.Linux.Devices = append(out.Linux.Devices, specs.LinuxDevice{Path: node})
		}
		return out
	}
	given := bundle(name.String(), "/dev/vfio/devices/vfio0")
	if err := s.pod.checkDevices(given); err != nil {
		t.Error(err)
	}
	s.pod.withoutEdits(&policy.Containers[0], given)
	req, err := create(policy, &policy.Containers[0], given, "c1", "pod")
	if err != nil {
		t.Fatal(err)
	}
	if text := req.String(); strings.Contains(text, "cdi.k8s.io") || strings.Contains(text, "vfio") || strings.Contains(text, "pgpu") || len(req.Devices) > 0 || len(req.OCI.Linux.Devices) > 0 {
		t.Errorf("the guest is told of it: %s", text)
	}
	for want, b := range map[cdi.Reason]*specs.Spec{
		cdi.NotPlugged: bundle(name.String(), "/dev/vfio/devices/vfio1"), cdi.NotAllowed: bundle("nvidia.com/gpu=0", ""), cdi.Unknown: bundle("nvidia.com/pgpu=9", ""), cdi.Gone: bundle(name.String(), "/dev/vfio/devices/vfio5"),
	} {
		if err := s.createContainer(t.Context(), &container{id: "c1"}, b); because(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := s.createContainer(t.Context(), &container{id: "c1"}, bundle("nvidia.com/pgpu=1", "")); because(err) != cdi.NotPlugged {
		t.Errorf("a second GPU by name: %v", err)
	}
}

func TestDevicesConfig(t *testing.T) {
	for body, want := range map[string]string{
		"tee = \"snp\"\nplatform = \"/p\"\ndevices = [\"nvidia.com/pgpu\", \"amd.com/gpu=0\"]\ncdi_dirs = [\"/srv/cdi\"]": "",
		"tee = \"hardware\"\nplatform = \"/p\"\ndevices = [\"nvidia.com/pgpu\"]":                                          "",
		"tee = \"tpm-sim\"\nplatform = \"/p\"\ndevices = [\"nvidia.com/pgpu\"]":                                           "devices: a pod of tpm-sim is given none",
		"tee = \"sgx-sim\"\ndevices = [\"nvidia.com/pgpu\"]":                                                              "devices:",
		"tee = \"snp\"\nplatform = \"/p\"\ndevices = [\"*\"]":                                                             "devices: device-name",
		"tee = \"snp\"\nplatform = \"/p\"\ncdi_dirs = [\"cdi\"]":                                                          "cdi_dirs:",
	} {
		c, err := ParseConfig([]byte(body))
		if want == "" && (err != nil || len(c.Devices) == 0) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

// kubelet serves a PodResources API that gives the pod default/gpu these devices.
func kubelet(t *testing.T, ids ...string) string {
	t.Helper()
	field := func(n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), v)
	}
	devices := field(1, []byte("nvidia.com/pgpu"))
	for _, id := range ids {
		devices = append(devices, field(2, []byte(id))...)
	}
	answer := field(1, slices.Concat(field(1, []byte("gpu")), field(2, []byte("default")), field(3, field(2, devices))))
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}))
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "v1.PodResourcesLister", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "List", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var asked []byte
			return errors.Join(s.RecvMsg(&asked), s.SendMsg(answer))
		},
	}}}, nil)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return socket
}

type bytesCodec struct{}

func (bytesCodec) Name() string                    { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = slices.Clone(b); return nil }

// TestDevicesOfTheKubelet: where the class asks the kubelet, a pod has what it was
// given, and no annotation gets it another pod's.
func TestDevicesOfTheKubelet(t *testing.T) {
	for _, c := range []struct {
		name, pod, annotation string
		host                  []string
		reason                cdi.Reason
	}{
		{"as given", "gpu", "", []string{"0000:e5:00.0"}, ""},
		{"and named", "gpu", "nvidia.com/pgpu=1", []string{"0000:e5:00.0"}, ""},
		{"another pod's", "gpu", "nvidia.com/pgpu=0", nil, cdi.NotAllowed},
		{"given nothing", "other", "", nil, ""},
		{"given nothing, and it names one", "other", "nvidia.com/pgpu=1", nil, cdi.NotAllowed},
	} {
		cfg := gpuNode(t, launch.SNP)
		cfg.PodResources = kubelet(t, "1")
		pod := &podSpec{name: c.pod, namespace: "default", annotations: map[string]string{}}
		if c.annotation != "" {
			pod.annotations["cdi.k8s.io/x"] = c.annotation
		}
		h := &holder{spec: &launch.Spec{TEE: launch.SNP}}
		if err := h.addDevices(t.Context(), cfg, document(launch.SNP, ""), pod); because(err) != c.reason || (err != nil) != (c.reason != "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
		}
		if !slices.Equal(h.spec.HostDevices, c.host) {
			t.Errorf("%s: %v are plugged", c.name, h.spec.HostDevices)
		}
	}
	cfg := gpuNode(t, launch.SNP)
	cfg.PodResources = filepath.Join(t.TempDir(), "none.sock")
	h := &holder{spec: &launch.Spec{TEE: launch.SNP}}
	if err := h.addDevices(t.Context(), cfg, document(launch.SNP, ""), &podSpec{name: "gpu"}); err == nil || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("the kubelet does not answer: %v", err)
	}
}

// TestWhatTheNodeAddsForADevice: variables and mounts of CDI specifications are taken
// off, exactly these, and not what the pod is sealed with.
func TestWhatTheNodeAddsForADevice(t *testing.T) {
	cfg := gpuNode(t, launch.SNPSim)
	h := &holder{spec: &launch.Spec{TEE: launch.SNPSim}}
	if err := h.addDevices(t.Context(), cfg, document(launch.SNPSim, ""), &podSpec{annotations: map[string]string{"cdi.k8s.io/x": "nvidia.com/pgpu=played"}}); err != nil {
		t.Fatal(err)
	}
	p := &pod{config: cfg, devices: h.devices, deviceNames: h.deviceNames}
	c := &podpolicy.Container{Name: "main", Env: []podpolicy.EnvVar{{Name: "SEALED"}}, Mounts: []podpolicy.Mount{{Volume: "data", Destination: "/data"}}}
	s := &specs.Spec{
		Process: &specs.Process{Env: []string{"A=1", "NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=all", "SEALED=too"}},
		Mounts:  []specs.Mount{{Source: "/usr/lib/x", Destination: "/lib/x"}, {Source: "/other", Destination: "/lib/x"}, {Source: "/srv/data", Destination: "/data"}},
	}
	p.withoutEdits(c, s)
	if want := []string{"A=1", "NVIDIA_VISIBLE_DEVICES=all", "SEALED=too"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("variables %q, want %q", s.Process.Env, want)
	}
	// An image for such a device often has the same variable, and is sealed with it.
	sealed := &podpolicy.Container{Env: []podpolicy.EnvVar{{Name: "NVIDIA_VISIBLE_DEVICES", Value: ptr("all")}}}
	if got, want := p.variables(sealed, []string{"NVIDIA_VISIBLE_DEVICES=void", "A=1"}), []string{"NVIDIA_VISIBLE_DEVICES=all", "A=1"}; !slices.Equal(got, want) {
		t.Errorf("variables %q, want %q", got, want)
	}
	// A command in the container is asked for with the container's variables.
	svc, _ := podOf(t, &fakeGuest{})
	svc.pod.devices = h.devices
	app := &container{proc: newProc(stdio{}), id: "c1", policy: c, execs: map[string]*exec{}}
	svc.containers["c1"] = app
	spec := &anypb.Any{Value: []byte(`{"args": ["sh"], "env": ["A=1", "NVIDIA_VISIBLE_DEVICES=void"]}`)}
	if _, err := svc.Exec(t.Context(), &api.ExecProcessRequest{ID: "c1", ExecID: "x", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	if got := app.exec("x").spec.Env; !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("a command's variables %q", got)
	}
	if len(s.Mounts) != 2 || s.Mounts[0].Source != "/other" || s.Mounts[1].Destination != "/data" {
		t.Errorf("mounts %+v", s.Mounts)
	}
}
