package shim

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// goldenConfig is a PodSandboxConfig by k8s.io/cri-api v0.37.2's own encoder.
func goldenConfig(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "podsandboxconfig.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSandboxRequest(t *testing.T) {
	p, err := ofRequest(&sandboxapi.CreateSandboxRequest{
		SandboxID: "pod1", NetnsPath: "/run/netns/x", Options: &anypb.Any{TypeUrl: criConfigType, Value: goldenConfig(t)}, Annotations: map[string]string{"more": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{launch.AnnotationMemory: "512", "kubernetes.io/config.source": "api", "empty": "", "more": "1"}
	if !maps.Equal(p.annotations, want) || p.uid != "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0" || p.netns != "/run/netns/x" ||
		p.cgroup != "/kubepods/burstable/pod0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0/pod1" || p.limits != (podLimits{memory: 268435456, cpuQuota: -1, cpuPeriod: 100000}) {
		t.Errorf("%+v", p)
	}
	lines, err := resolvConf(p, &podpolicy.Policy{Sandbox: podpolicy.Sandbox{ResolvConf: "host"}})
	if err != nil || !slices.Equal(lines, []string{"search default.svc.cluster.local svc.cluster.local", "nameserver 10.96.0.10", "nameserver fd00::a", "options ndots:5"}) {
		t.Errorf("%q, %v", lines, err)
	}

	// A client that is no CRI, and a node with systemd.
	if p, err := ofRequest(&sandboxapi.CreateSandboxRequest{SandboxID: "x", Annotations: map[string]string{"a": "b"}}); err != nil || p.annotations["a"] != "b" || p.cgroup != "" || p.resolvFile != "/etc/resolv.conf" {
		t.Errorf("%+v, %v", p, err)
	}
	if p := ofConfig(&criConfig{cgroupParent: "/kubepods.slice/kubepods-pod1.slice"}, "x", ""); p.cgroup != "kubepods-pod1.slice:cri-containerd:x" {
		t.Errorf("%q", p.cgroup)
	}
	if _, err := ofRequest(&sandboxapi.CreateSandboxRequest{Options: &anypb.Any{TypeUrl: "runtime.v1.ContainerConfig", Value: []byte{1}}}); err == nil || !strings.Contains(err.Error(), criConfigType) {
		t.Errorf("options of another type: %v", err)
	}
}

func TestBadCRIConfig(t *testing.T) {
	field := func(num protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), v)
	}
	for what, b := range map[string][]byte{
		"field 1":        goldenConfig(t)[:20],
		"field 7":        field(7, field(1, []byte{0xff})),
		"field 8":        field(8, field(5, []byte{0x08, 0xff})),
		"unexpected EOF": {0xff},
	} {
		if c, err := parseCRIConfig(b); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	// Of unknown fields, and known ones as something else, nothing is taken.
	b := protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.VarintType), 5)
	b = append(b, field(8, field(5, field(4, []byte("x"))))...)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 99, protowire.Fixed64Type), 1)
	if c, err := parseCRIConfig(b); err != nil || len(c.annotations) != 0 || c.limits != (podLimits{}) {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzCRIConfig(f *testing.F) {
	f.Add(goldenConfig(f))
	f.Add([]byte{0x0a, 0x00, 0x22, 0x02, 0x0a, 0x00, 0x42, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCRIConfig(b)
		if err != nil {
			return
		}
		size := len(c.uid) + len(c.cgroupParent)
		for k, v := range c.annotations {
			size += len(k) + len(v)
		}
		if size > len(b) {
			t.Errorf("%d bytes out of %d", size, len(b))
		}
		p := ofConfig(c, "pod1", "")
		if _, err := resolvConf(p, &podpolicy.Policy{}); err != nil {
			t.Error(err)
		}
		if dir, err := cgroupDir(p.cgroup); err == nil && (strings.HasPrefix(dir, "/") || strings.Contains(dir, "..") && slices.Contains(strings.Split(dir, "/"), "..")) {
			t.Errorf("control group %q", dir)
		}
	})
}
