package podpolicy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func ptr[T any](v T) *T { return &v }

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// testPolicy uses every member of the format.
func testPolicy() *Policy {
	return &Policy{
		Version:  Version,
		Pod:      "default/web",
		Hostname: "web",
		Sandbox:  Sandbox{ResolvConf: "host", Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}, ShmBytes: 64 << 20, Resources: true},
		Volumes: []Volume{
			{Name: "config", Kind: VolumeFiles, Files: map[string]File{
				"a.conf":   {SHA256: sha("level=very"), Size: 10, Mode: 0o644},
				"d/b.conf": {SHA256: sha(""), Size: 0, Mode: 0o400},
			}, GID: ptr(uint32(7))},
			{Name: "scratch", Kind: VolumeEmptyDir, SizeLimit: 1 << 20, GID: ptr(uint32(7))},
			{Name: "fast", Kind: VolumeEmptyDir, Memory: true},
			{Name: "data", Kind: VolumeDisk, Key: "kbs:///default/volumes/data", New: true, SizeLimit: 1 << 30, GID: ptr(uint32(7))},
			{Name: "spool", Kind: VolumeDisk, SizeLimit: MinDisk},
			{Name: "raw", Kind: VolumeDisk, Key: "kbs:///default/volumes/raw", Block: true},
			{Name: "ref", Kind: VolumeDisk, Key: "kbs:///default/volumes/ref", Block: true},
		},
		InitContainers: []Container{testContainer("prepare", "OnFailure"), testContainer("check", "Never")},
		Containers:     []Container{testContainer("app", "OnFailure"), testContainer("side", "Always")},
	}
}

func testContainer(name, restart string) Container {
	return Container{
		Name: name, Image: "registry.example/app@" + digestB, ManifestDigest: digestA, IndexDigest: digestB,
		Args:            []string{"/bin/app", "-v"},
		Env:             []EnvVar{{Name: "PATH", Value: ptr("/bin")}, {Name: "PASSWORD", SHA256: sha("hunter2")}},
		Cwd:             "/",
		User:            User{UID: ptr(uint32(1000)), GID: ptr(uint32(1001)), AdditionalGIDs: []uint32{7, 8}, NonRoot: true},
		Terminal:        name == "side",
		Stdin:           name == "side",
		ReadOnly:        true,
		NoNewPrivileges: true,
		Capabilities:    []string{"CAP_CHOWN", "CAP_KILL"},
		Seccomp:         "runtime-default",
		MaskedPaths:     []string{"/proc/kcore"},
		ReadOnlyPaths:   []string{"/proc/sys"},
		Mounts: []Mount{
			{Volume: "config", Destination: "/etc/config", ReadOnly: true},
			{Volume: "config", Destination: "/etc/a", SubPath: "a.conf", ReadOnly: true},
			{Volume: "scratch", Destination: "/scratch"},
			{Volume: "data", Destination: "/var/db", SubPath: "db"},
			{Volume: "spool", Destination: "/spool"},
			{Volume: "fast", Destination: "/dev/shm"},
		},
		Devices:      []Device{{Volume: "raw", Path: "/dev/xvda"}, {Volume: "ref", Path: "/srv/ref", ReadOnly: true}},
		ImageVolumes: []string{"/data"},
		Resources:    Resources{MemoryBytes: 1 << 20, CPUQuota: 50000, CPUPeriod: 100000, CPUShares: 512, Pids: 100},
		Restart:      restart,
		Exec:         []Exec{{Args: []string{"date"}}, {Args: []string{"sh"}, TTY: true}, {Args: []string{"cat"}, Stdin: true}},
		Logs:         name != "side",
	}
}

var testEnv = []string{"PATH=/bin", "PASSWORD=hunter2"}

var testDNS = []string{"nameserver 10.0.2.3", "search a.example b.example", "options ndots:5"}

func mustEnforcer(t testing.TB) (*Enforcer, *Policy) {
	t.Helper()
	b, err := Encode(testPolicy())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return NewEnforcer(p), p
}

func allow(t testing.TB, e *Enforcer, req proto.Message) *Grant {
	t.Helper()
	g := pend(t, e, req)
	g.Done(nil)
	return g
}

func pend(t testing.TB, e *Enforcer, req proto.Message) *Grant {
	t.Helper()
	g, err := e.Authorize(req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return g
}

func refuse(t testing.TB, e *Enforcer, req proto.Message, reason denial.Reason, claim string) {
	t.Helper()
	g, err := e.Authorize(req)
	if err == nil {
		g.Done(nil)
		t.Fatalf("%T was allowed, want %s", req, reason)
	}
	d, ok := denial.As(err)
	if !ok || d.Component != "pod-policy" || d.Source != "pod policy (initdata)" {
		t.Fatalf("%T: %v is no denial of ours", req, err)
	}
	if d.Reason != reason || !strings.Contains(d.Claim, claim) {
		t.Fatalf("%T: %v, want %s about %s", req, d, reason, claim)
	}
	if strings.Contains(d.Error(), "hunter2") {
		t.Fatalf("%v tells a secret", d)
	}
}

// deliver brings a sandbox to where containers may be created.
func deliver(t testing.TB, e *Enforcer, p *Policy) {
	t.Helper()
	allow(t, e, p.CreateSandboxRequest("pod1", testDNS))
	v := p.Volume("config")
	allow(t, e, CopyDirRequest(v, ""))
	allow(t, e, CopyDirRequest(v, "d"))
	for name, content := range map[string]string{"a.conf": "level=very", "d/b.conf": ""} {
		for _, r := range CopyFileRequests(v, name, []byte(content)) {
			allow(t, e, r)
		}
	}
}

func create(p *Policy, name, id string) *agentpb.CreateContainerRequest {
	for _, cs := range [][]Container{p.InitContainers, p.Containers} {
		for i := range cs {
			if cs[i].Name == name {
				return p.CreateContainerRequest(&cs[i], id, "pod1", testEnv)
			}
		}
	}
	panic(name)
}

func runInit(t testing.TB, e *Enforcer, p *Policy) {
	t.Helper()
	for _, name := range []string{"prepare", "check"} {
		allow(t, e, create(p, name, name+"-1"))
		allow(t, e, &agentpb.StartContainerRequest{ContainerId: name + "-1"})
		e.Exited(name+"-1", "", 0)
	}
}

func startAll(t testing.TB, e *Enforcer, p *Policy) {
	t.Helper()
	deliver(t, e, p)
	runInit(t, e, p)
	for _, name := range []string{"app", "side"} {
		allow(t, e, create(p, name, name+"-1"))
		allow(t, e, &agentpb.StartContainerRequest{ContainerId: name + "-1"})
	}
}
