package shim

import (
	"encoding/json"
	"maps"
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
// unchanged pod.
func TestCRIOContainer(t *testing.T) {
	s := crioBundle(t, "crio-container.json")
	s.Annotations[criSandbox], s.Annotations[criName] = "another", "another"
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

// TestAnnotationsOfAnotherRuntime: what a pod's author writes, and CRI-O copies over its
// own annotations, makes no sandbox of another pod's, and none with its volumes.
func TestAnnotationsOfAnotherRuntime(t *testing.T) {
	for what, own := range map[string]map[string]string{
		"as containerd's, another pod's": {crioType: "", criType: typeSandbox, criUID: "victim", criPod: "victim", criNamespace: "victims"},
		"as containerd's":                {criType: typeSandbox, criUID: "victim"},
	} {
		s := crioBundle(t, "crio-sandbox.json")
		maps.Copy(s.Annotations, own)
		if id, is, err := role(s, "mine"); err == nil {
			t.Errorf("%s: %q, %t", what, id, is)
		}
	}
	for what, own := range map[string]map[string]string{
		"a container of another pod": {crioType: typeContainer, crioSandbox: "victim"},
		"no type":                    {crioType: "", criUID: "victim", criPod: "victim"},
	} {
		s := crioBundle(t, "crio-sandbox.json")
		maps.Copy(s.Annotations, own)
		if id, is, err := role(s, "mine"); id != "mine" || !is || err != nil {
			t.Errorf("%s: %q, %t, %v", what, id, is, err)
		}
		p, err := ofBundle(s)
		if err != nil || p.uid != "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0" || p.name != "web" || p.namespace != "default" {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	// containerd that passes on all of a pod's annotations.
	s := &specs.Spec{Annotations: map[string]string{criType: typeSandbox, criUID: "own", crioType: typeSandbox, crioContainer: crioInfra, crioUID: "victim"}}
	if _, _, err := role(s, "mine"); err == nil || !strings.Contains(err.Error(), crioType) {
		t.Errorf("containerd's with CRI-O's: %v", err)
	}
	s = crioBundle(t, "crio-sandbox.json")
	delete(s.Annotations, crioContainer)
	if _, _, err := role(s, "mine"); err == nil || !strings.Contains(err.Error(), crioContainer) {
		t.Errorf("without the kubelet's label: %v", err)
	}
}
