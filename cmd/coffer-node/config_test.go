package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	nodev1 "k8s.io/api/node/v1"
	"sigs.k8s.io/yaml"

	"github.com/cofferproject/coffer/host/shim"
)

func config(t *testing.T, args ...string) (dir, out string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "etc")
	var b bytes.Buffer
	if err := configMain(append([]string{"--out", dir}, args...), &b); err != nil {
		t.Fatal(err)
	}
	return dir, b.String()
}

// TestConfig reads what is written as those do who get it: containerd's runtimes each
// name a handler's file that the shim takes, and each RuntimeClass a runtime.
func TestConfig(t *testing.T) {
	dir, out := config(t, "--tee", "tpm-sim", "--tee", "sgx-sim", "--tee", "snp-sim", "--tee", "hardware", "--tee", "tdx", "--platform", `/srv/a "guest"/platform.json`, "--cache", "/srv/cache", "--aliases", "--output", "json")
	var files []struct{ File string }
	if err := json.Unmarshal([]byte(out), &files); err != nil || len(files) != 7 {
		t.Fatalf("%s: %v", out, err)
	}
	var c struct {
		Version      int
		ProxyPlugins map[string]struct {
			Type, Address string
			Exports       map[string]string
		} `toml:"proxy_plugins"`
		Plugins map[string]struct {
			Containerd struct {
				Runtimes map[string]struct {
					RuntimeType    string   `toml:"runtime_type"`
					Snapshotter    string   `toml:"snapshotter"`
					PodAnnotations []string `toml:"pod_annotations"`
					Privileged     bool     `toml:"privileged_without_host_devices"`
					Options        struct{ ConfigPath string }
				}
			}
			RuntimePlatforms map[string]struct{ Snapshotter string } `toml:"runtime_platforms"`
			Annotations      bool                                    `toml:"disable_snapshot_annotations"`
		}
	}
	md, err := toml.DecodeFile(filepath.Join(dir, "containerd.toml"), &c)
	if err != nil || len(md.Undecoded()) > 0 {
		t.Fatalf("%v, %v", md.Undecoded(), err)
	}
	if p := c.ProxyPlugins["coffer"]; p.Address != "/run/coffer/snapshotter.sock" || p.Exports["root"] != "/var/lib/coffer/snapshotter" || p.Type != "snapshot" {
		t.Errorf("%+v", p)
	}
	runtimes := c.Plugins["io.containerd.cri.v1.runtime"].Containerd.Runtimes
	for name, tee := range map[string]string{"coffer-tpm-sim": "tpm-sim", "coffer-process-sim": "sgx-sim", "coffer-snp-sim": "snp-sim", "coffer": "hardware", "coffer-tdx": "tdx"} {
		r := runtimes[name]
		if r.RuntimeType != "io.containerd.coffer.v2" || r.Snapshotter != "coffer" || !slices.Equal(r.PodAnnotations, []string{"io.katacontainers.*"}) || !r.Privileged {
			t.Errorf("%s: %+v", name, r)
		}
		if p := c.Plugins["io.containerd.cri.v1.images"].RuntimePlatforms[name]; p.Snapshotter != "coffer" {
			t.Errorf("%s: images by %q", name, p.Snapshotter)
		}
		b, err := os.ReadFile(r.Options.ConfigPath)
		if err != nil {
			t.Fatal(err)
		}
		h, err := shim.ParseConfig(b)
		if err != nil || string(h.TEE) != tee || h.Cache != "/srv/cache" || !h.TEE.Process() && h.Platform != `/srv/a "guest"/platform.json` {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "runtimeclasses.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for doc := range strings.SplitSeq(string(text), "---\n") {
		if doc == "" {
			continue
		}
		rc := new(nodev1.RuntimeClass)
		if err := yaml.UnmarshalStrict([]byte(doc), rc); err != nil {
			t.Fatal(err)
		}
		memory := map[bool]int64{true: 256 << 20, false: 512 << 20}[rc.Handler == "coffer-process-sim"]
		if _, ok := runtimes[rc.Handler]; !ok || rc.APIVersion != "node.k8s.io/v1" || rc.Overhead.PodFixed.Memory().Value() != memory {
			t.Errorf("%+v", rc)
		}
		names = append(names, rc.Name)
	}
	if want := []string{"coffer-tpm-sim", "kata-qemu-coco-dev", "coffer-process-sim", "enclave-cc", "coffer-snp-sim", "coffer", "coffer-tdx", "kata-qemu-tdx"}; !slices.Equal(names, want) {
		t.Errorf("classes %q, want %q", names, want)
	}
}

// TestConfigForTheSandboxAPI: each handler says so, and none does unasked.
func TestConfigForTheSandboxAPI(t *testing.T) {
	for sandboxer, want := range map[string]int{"podsandbox": 0, "shim": 2} {
		dir, _ := config(t, "--tee", "tpm-sim", "--tee", "sgx-sim", "--sandboxer", sandboxer)
		b, err := os.ReadFile(filepath.Join(dir, "containerd.toml"))
		if err != nil || strings.Count(string(b), "  sandboxer = \"shim\"\n") != want || strings.Count(string(b), "sandboxer") != want {
			t.Errorf("%s: %s, %v", sandboxer, b, err)
		}
	}
}

// TestConfigWithDevices: each TEE whose pods may be given devices has a further class,
// and only that one's handler takes the annotations that name them.
func TestConfigWithDevices(t *testing.T) {
	dir, out := config(t, "--tee", "snp", "--tee", "tdx", "--tee", "hardware", "--tee", "snp-sim", "--tee", "tpm-sim", "--tee", "sgx-sim", "--device", "nvidia.com/pgpu", "--device", "amd.com/gpu=0", "--pod-resources", "/k.sock", "--aliases", "--platform", "/p.json")
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	containerd, classes := read("containerd.toml"), read("runtimeclasses.yaml")
	for _, name := range []string{"coffer-snp-gpu", "coffer-tdx-gpu", "coffer-gpu", "coffer-snp-sim-gpu"} {
		h, err := shim.ParseConfig([]byte(read(name + ".toml")))
		if err != nil || !slices.Equal(h.Devices, []string{"nvidia.com/pgpu", "amd.com/gpu=0"}) || h.PodResources != "/k.sock" {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
		_, table, _ := strings.Cut(containerd, "runtimes."+name+"]")
		table, _, _ = strings.Cut(table, "\n[")
		if !strings.Contains(table, `pod_annotations = ["io.katacontainers.*", "cdi.k8s.io/*"]`) || !strings.Contains(table, `container_annotations = ["cdi.k8s.io/*"]`) {
			t.Errorf("%s: %s", name, table)
		}
		if !strings.Contains(classes, "metadata: {name: "+name+"}\nhandler: "+name+"\n") {
			t.Errorf("no class %s: %s", name, classes)
		}
	}
	for alias, handler := range map[string]string{"kata-qemu-nvidia-gpu-snp": "coffer-snp-gpu", "kata-qemu-nvidia-gpu-tdx": "coffer-tdx-gpu", "kata-qemu-snp": "coffer-snp"} {
		if !strings.Contains(classes, "metadata: {name: "+alias+"}\nhandler: "+handler+"\n") {
			t.Errorf("no class %s: %s", alias, classes)
		}
	}
	if h, err := shim.ParseConfig([]byte(read("coffer-snp.toml"))); err != nil || len(h.Devices) > 0 || h.PodResources != "" || strings.Count(containerd, "cdi.k8s.io") != 8 {
		t.Errorf("%+v, %v, %s", h, err, containerd)
	}
	if strings.Contains(out, "coffer-tpm-sim-gpu") || strings.Contains(out, "coffer-process-sim-gpu") {
		t.Errorf("a class whose pods are given none: %s", out)
	}
}

func TestConfigWithoutSnapshotter(t *testing.T) {
	dir, _ := config(t, "--tee", "tpm-sim", "--snapshotter", "")
	b, err := os.ReadFile(filepath.Join(dir, "containerd.toml"))
	if err != nil || strings.Contains(string(b), "snapshotter") {
		t.Errorf("%s, %v", b, err)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"--tee is missing":         {},
		"none that this build":     {"--tee", "sev"},
		"named twice":              {"--tee", "tpm-sim", "--tee", "tpm-sim"},
		"--platform":               {"--tee", "tpm-sim", "--platform", "guest/platform.json"},
		"no plugin's name":         {"--tee", "tpm-sim", "--snapshotter", "a]\nb"},
		"--sandboxer":              {"--tee", "tpm-sim", "--sandboxer", "pod"},
		"--overhead-memory":        {"--tee", "tpm-sim", "--overhead-memory", "1}\nkind: Pod"},
		"--etc":                    {"--tee", "tpm-sim", "--etc", "/a\nb"},
		"--pod-resources: it":      {"--tee", "snp", "--pod-resources", "/k.sock"},
		"--pod-resources: \"k":     {"--tee", "snp", "--device", "a/b", "--pod-resources", "k.sock"},
		"are given none":           {"--tee", "tpm-sim", "--device", "nvidia.com/pgpu"},
		"vendor/class":             {"--tee", "snp", "--device", "pgpu"},
		"--output text or json":    {"--tee", "tpm-sim", "--output", "xml"},
		"config takes no argument": {"--tee", "tpm-sim", "more"},
	} {
		dir := filepath.Join(t.TempDir(), "etc")
		err := configMain(append([]string{"--out", dir}, args...), new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%q: files are left", args)
		}
	}
	if err := configMain([]string{"--tee", "tpm-sim"}, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "--out is missing") {
		t.Error(err)
	}
}
