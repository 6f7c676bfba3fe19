package gramine

import (
	"errors"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/podpolicy"
)

var update = flag.Bool("update", os.Getenv("UPDATE_GOLDEN") == "1", "write the golden file anew")

func ptr[T any](v T) *T { return &v }

const digestA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func input() *Input {
	p := &podpolicy.Policy{
		Pod: "default/web", Sandbox: podpolicy.Sandbox{ResolvConf: "host", Hosts: []podpolicy.HostAlias{{IP: "10.1.2.3", Names: []string{"db", "db.example"}}}},
		Volumes: []podpolicy.Volume{
			{Name: "conf", Kind: podpolicy.VolumeFiles, Files: map[string]podpolicy.File{"a.conf": {SHA256: digestA, Size: 3, Mode: 0o644}, "sub/b": {SHA256: digestA, Size: 3, Mode: 0o600}}},
			{Name: "scratch", Kind: podpolicy.VolumeEmptyDir}, {Name: "data", Kind: podpolicy.VolumeEmptyDir}, {Name: "kept", Kind: podpolicy.VolumeEmptyDir},
			{Name: "token", Kind: podpolicy.VolumeServiceAccount},
		},
		Containers: []podpolicy.Container{{
			Name: "app", Args: []string{"server", "--name", `a "quoted" {{name}}`}, Cwd: "/srv", Logs: true, User: podpolicy.User{UID: ptr(uint32(1000)), NonRoot: true},
			Env:          []podpolicy.EnvVar{{Name: "PATH", Value: ptr("/usr/bin")}, {Name: "PASSWORD", SHA256: digestA}, {Name: "EMPTY", Value: ptr("")}},
			Mounts:       []podpolicy.Mount{{Volume: "conf", Destination: "/etc/app", ReadOnly: true}, {Volume: "scratch", Destination: "/tmp"}, {Volume: "data", Destination: "/data"}, {Volume: "kept", Destination: "/kept", SubPath: "x"}},
			ImageVolumes: []string{"/var/cache"}, Resources: podpolicy.Resources{MemoryBytes: 900 << 20, CPUQuota: 150_000, CPUPeriod: 100_000},
		}},
	}
	return &Input{
		Policy: p, Container: &p.Containers[0], Env: []string{"PATH=/usr/bin", "PASSWORD=line 1\nline 2 = \"x\"", "EMPTY="},
		Files:   []File{{Path: "lib/libc.so.6", SHA256: digestA}, {Path: "usr/bin/server", SHA256: digestA}},
		Entry:   func(arg string) (string, error) { return "/usr/bin/" + arg, nil },
		User:    func(string) (uint32, uint32, bool) { return 0, 0, true },
		LibOS:   File{Path: "libsysdb.so", SHA256: digestA},
		Runtime: []File{{Path: "ld-linux-x86-64.so.2", SHA256: digestA}},
		Persist: map[string]string{"data": "mrenclave", "kept": "volume-key"}, ProductID: 3, SVN: 4,
	}
}

// TestManifest holds a manifest with everything against the golden file, and what
// the file says against the input.
func TestManifest(t *testing.T) {
	in := input()
	res, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	m, hosts := res.Manifest, res.Hosts
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/full.manifest"
	if *update {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != string(b) {
		t.Errorf("%v; got:\n%s", err, b)
	}
	var again Manifest
	md, err := toml.Decode(string(b), &again)
	if err != nil || len(md.Undecoded()) != 0 || !reflect.DeepEqual(&again, m) {
		t.Errorf("the document reads as another manifest: %v, %v", err, md.Undecoded())
	}
	if !slices.Equal(again.Loader.Argv, in.Container.Args) || again.Loader.Env["PASSWORD"] != "line 1\nline 2 = \"x\"" || again.Loader.UID != 1000 {
		t.Errorf("%+v", again.Loader)
	}
	if again.SGX.EnclaveSize != "2048M" || again.SGX.MaxThreads != 2*16+4 {
		t.Errorf("size %s, %d threads", again.SGX.EnclaveSize, again.SGX.MaxThreads)
	}
	if !strings.Contains(string(hosts), "10.1.2.3\tdb db.example\n") {
		t.Errorf("hosts: %q", hosts)
	}
	for _, loose := range []string{"allowed_files", "passthrough", "insecure", "allow_all"} {
		if strings.Contains(string(b), loose) {
			t.Errorf("the manifest has %s", loose)
		}
	}
}

// TestEncrypted: of an encrypted image no file is named, and its root has a key.
func TestEncrypted(t *testing.T) {
	in := input()
	in.Encrypted, in.Files = true, nil
	res, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	m := res.Manifest
	if m.FS.Root != (Mount{Type: "encrypted", URI: "file:rootfs", KeyName: ImageKey}) {
		t.Errorf("%+v", m.FS.Root)
	}
	if slices.ContainsFunc(m.SGX.TrustedFiles, func(f TrustedFile) bool { return strings.HasPrefix(f.URI, "file:rootfs") }) {
		t.Error("files of an encrypted tree are trusted by their own digests")
	}
}

// TestRefused: what no enclave keeps, each with its field.
func TestRefused(t *testing.T) {
	for want, change := range map[string]func(in *Input, c *podpolicy.Container){
		"containers[app].exec:": func(_ *Input, c *podpolicy.Container) { c.Exec = []podpolicy.Exec{{Args: []string{"/probe"}}} },
		"containers[app].logs:": func(_ *Input, c *podpolicy.Container) { c.Logs = false },
		"containers[app].volumeDevices:": func(_ *Input, c *podpolicy.Container) {
			c.Devices = []podpolicy.Device{{Volume: "raw", Path: "/dev/xvda"}}
		},
		"containers[app].terminationMessagePath:":  func(_ *Input, c *podpolicy.Container) { c.Termination = "/run/words/last" },
		"containers[app].share_pids:":              func(in *Input, _ *podpolicy.Container) { in.Policy.Sandbox.SharePIDs = true },
		"containers[app].sysctls:":                 func(in *Input, _ *podpolicy.Container) { in.Policy.Sandbox.Sysctls = map[string]string{"a": "b"} },
		"containers[app].tty:":                     func(_ *Input, c *podpolicy.Container) { c.Terminal = true },
		"containers[app].env[IP]:":                 func(_ *Input, c *podpolicy.Container) { c.Env[0] = podpolicy.EnvVar{Name: "IP", From: "pod-ip"} },
		"containers[app].env[EMPTY]: is a sealed":  func(in *Input, _ *podpolicy.Container) { in.Env[2] = "EMPTY=sealed.fakejwsheader.x.y" },
		"containers[app].user: the image's user":   func(in *Input, c *podpolicy.Container) { c.User = podpolicy.User{Image: "nobody"}; in.User = noUser },
		"containers[app].user: runAsNonRoot":       func(_ *Input, c *podpolicy.Container) { c.User.UID = ptr(uint32(0)) },
		"containers[app].args[0]:":                 func(in *Input, _ *podpolicy.Container) { in.Entry = noEntry },
		"containers[app].resources.limits.memory:": func(_ *Input, c *podpolicy.Container) { c.Resources.MemoryBytes = 0 },
		"containers[app].enclave size:":            func(in *Input, _ *podpolicy.Container) { in.EnclaveBytes = 300 << 20 },
		"containers[app].threads:":                 func(in *Input, _ *podpolicy.Container) { in.Threads = 3 },
		"containers[app].mounts: no volume other":  func(in *Input, _ *podpolicy.Container) { in.Persist["other"] = "mrenclave" },
		"containers[app].mounts[/data]: key":       func(in *Input, _ *podpolicy.Container) { in.Persist["data"] = "_sgx_other" },
		"containers[app].mounts[/tmp]: subPath":    func(_ *Input, c *podpolicy.Container) { c.Mounts[1].SubPath = "x" },
		"containers[app].mounts[/x]: volume odd": func(in *Input, c *podpolicy.Container) {
			in.Policy.Volumes = append(in.Policy.Volumes, podpolicy.Volume{Name: "odd", Kind: "odd"})
			c.Mounts = append(c.Mounts, podpolicy.Mount{Volume: "odd", Destination: "/x"})
		},
		"containers[app].mounts[/etc/app]: file a.conf": func(in *Input, _ *podpolicy.Container) {
			in.Content = map[string]map[string][]byte{"conf": {"a.conf": []byte("sealed.x.y.z")}}
		},
		"containers[app].mounts[/tmp]: volume scratch is in 2": func(in *Input, c *podpolicy.Container) {
			in.Policy.Containers = append(in.Policy.Containers, podpolicy.Container{Name: "side", Mounts: c.Mounts[1:2]})
		},
	} {
		in := input()
		change(in, in.Container)
		m, err := Generate(in)
		var p Problems
		if !errors.As(err, &p) || len(p) != 1 || !strings.HasPrefix(err.Error(), want) || m != nil {
			t.Errorf("want %q: got %v", want, err)
		}
	}
}

// TestVolumesThatLast: by which key each is encrypted.
func TestVolumesThatLast(t *testing.T) {
	in := input()
	for _, v := range []podpolicy.Volume{
		{Name: "sealed", Sealing: podpolicy.SealingMREnclave}, {Name: "db", Key: "kbs:///default/volumes/db"}, {Name: "spool", SizeLimit: 1 << 30},
	} {
		v.Kind = podpolicy.VolumeDisk
		in.Policy.Volumes = append(in.Policy.Volumes, v)
		in.Container.Mounts = append(in.Container.Mounts, podpolicy.Mount{Volume: v.Name, Destination: "/" + v.Name})
	}
	res, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Mount{
		{Type: "encrypted", Path: "/sealed", URI: "file:volumes/sealed", KeyName: "_sgx_mrenclave"},
		{Type: "encrypted", Path: "/db", URI: "file:volumes/db", KeyName: "db"},
		{Type: "tmpfs", Path: "/spool"},
	} {
		if !slices.Contains(res.Manifest.FS.Mounts, want) {
			t.Errorf("no %+v in %+v", want, res.Manifest.FS.Mounts)
		}
	}
	if !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "kbs:///default/volumes/db") }) {
		t.Errorf("no word of the key that is handed over: %q", res.Notes)
	}
	i := len(in.Policy.Volumes) - 3
	in.Policy.Volumes[i].Sealing, in.Policy.Volumes[i].Key = podpolicy.SealingMRSigner, "kbs:///a/b/c"
	if _, err := Generate(in); err == nil || !strings.Contains(err.Error(), "mounts[/sealed]: volume sealed has a sealing key and one") {
		t.Errorf("two keys: %v", err)
	}
}

// TestHostsWords: what the policy lets the host add, an enclave does without, and
// says so.
func TestHostsWords(t *testing.T) {
	in := input()
	in.Container.ServiceLinks = "all"
	in.Container.Mounts = append(in.Container.Mounts, podpolicy.Mount{Volume: "token", Destination: "/run/sa"})
	res, err := Generate(in)
	if err != nil || len(res.Notes) != 3 || !strings.Contains(res.Notes[0], "services") || !strings.Contains(res.Notes[1], "env[PASSWORD]") || !strings.Contains(res.Notes[2], "/run/sa") {
		t.Fatalf("%+v, %v", res, err)
	}
	if !slices.Contains(res.Manifest.FS.Mounts, Mount{Type: "tmpfs", Path: "/run/sa"}) {
		t.Errorf("%+v", res.Manifest.FS.Mounts)
	}
}

func noUser(string) (uint32, uint32, bool) { return 0, 0, false }

func noEntry(string) (string, error) { return "", errors.New("no such program") }

func TestSizes(t *testing.T) {
	for limit, want := range map[int64]string{1 << 20: "256M", 128 << 20: "256M", 129 << 20: "512M", 384 << 20: "512M", 385 << 20: "1024M", 200 << 30: "262144M"} {
		in := input()
		in.Container.Resources.MemoryBytes = limit
		if m, err := Generate(in); err != nil || m.Manifest.SGX.EnclaveSize != want {
			t.Errorf("limit of %d MiB: %v, %v, want %s", limit>>20, m, err, want)
		}
	}
	in := input()
	in.EnclaveBytes, in.Threads = 1<<30, 99
	if m, err := Generate(in); err != nil || m.Manifest.SGX.EnclaveSize != "1024M" || m.Manifest.SGX.MaxThreads != 99 {
		t.Errorf("%v, %v", m, err)
	}
}
