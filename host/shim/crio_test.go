package shim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// crioBundle reads a bundle as CRI-O writes it for runtime_type = "vm", put together from
// its published source: annotations, mounts, namespaces and the systemd form of its
// control groups.
func crioBundle(t *testing.T, name string) *specs.Spec {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCRIOSandbox(t *testing.T) {
	s := crioBundle(t, "crio-sandbox.json")
	id := s.Annotations["io.kubernetes.cri-o.SandboxID"]
	if sandbox, is, err := role(s, id); sandbox != id || !is || err != nil {
		t.Errorf("%q, %v, %v", sandbox, is, err)
	}
	p, err := ofBundle(s)
	if err != nil {
		t.Fatal(err)
	}
	if p.uid != "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0" || p.netns != "/var/run/netns/4c1b2a30" || !strings.HasSuffix(p.resolvFile, "/userdata/resolv.conf") ||
		p.limits != (podLimits{memory: 268435456, cpuQuota: 350000, cpuPeriod: 100000}) {
		t.Errorf("%+v", p)
	}
	const slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_4978_8695_a4b3c2d1e0f0.slice"
	if dir, err := cgroupDir(p.cgroup); dir != slice+"/crio-"+id+".scope" || err != nil {
		t.Errorf("%q, %v", dir, err)
	}
	if mib, cpus, err := size(&Config{}, p.annotations, p.limits); mib != 768 || cpus != 4 || err != nil {
		t.Errorf("%d MiB, %d vCPUs, %v", mib, cpus, err)
	}
	// A pod's author can write over what CRI-O says, and not over the kubelet's label.
	s.Annotations["io.kubernetes.cri-o.Metadata"], s.Annotations[criUID] = `{"name":"web","uid":"another"}`, "another"
	if q, err := ofBundle(s); err != nil || q.uid != p.uid {
		t.Errorf("uid %q, %v", q.uid, err)
	}
	s.Annotations[crioResources] = "{"
	if _, err := ofBundle(s); err == nil || !strings.Contains(err.Error(), crioResources) {
		t.Errorf("%v", err)
	}
}

// TestCRIOContainer: the guest allows what the shim makes of CRI-O's bundle of an
// unchanged pod, whatever the pod's author writes into annotations of containerd's, which
// CRI-O copies.
func TestCRIOContainer(t *testing.T) {
	s := crioBundle(t, "crio-container.json")
	s.Annotations[criType], s.Annotations[criSandbox], s.Annotations[criName] = typeSandbox, "another", "another"
	if sandbox, is, err := role(s, "c1"); sandbox != s.Annotations[crioSandbox] || is || err != nil {
		t.Errorf("%q, %v, %v", sandbox, is, err)
	}
	if name, err := containerName(s); name != "app" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if name, err := containerName(&specs.Spec{Annotations: map[string]string{crioType: typeContainer}}); err == nil || !strings.Contains(err.Error(), crioMetadata) {
		t.Errorf("a container without a name: %q, %v", name, err)
	}
	p := testPolicy()
	p.Containers[0].ReadOnly = true
	e := guest(t, p)
	// What CRI-O adds to a container with a read-only root.
	s.Root.Readonly = true
	for _, dest := range []string{"/run", "/tmp", "/var/tmp"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: []string{"rw", "noexec", "nosuid", "nodev", "tmpcopyup"}})
	}
	r, err := create(p, &p.Containers[0], s, "c1", "pod1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Authorize(r); err != nil {
		t.Error(err)
	}
	// A mount of the kubelet's there is no addition of CRI-O's.
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: "/etc"})
	if r, err = create(p, &p.Containers[0], s, "c1", "pod1"); err != nil {
		t.Fatal(err)
	}
	if _, err := guest(t, p).Authorize(r); err == nil || !strings.Contains(err.Error(), string(podpolicy.MountUnexpected)) {
		t.Errorf("%v", err)
	}
}
