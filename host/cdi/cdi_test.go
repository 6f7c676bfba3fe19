package cdi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func reason(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func TestRequested(t *testing.T) {
	got, err := Requested(map[string]string{
		"cdi.k8s.io/b": "nvidia.com/pgpu=1, nvidia.com/pgpu=0", "cdi.k8s.io/a": "nvidia.com/pgpu=1", "io.katacontainers.x": "a/b=c", "cdi.k8s.io.other/x": "none",
	})
	want := []Name{{"nvidia.com", "pgpu", "1"}, {"nvidia.com", "pgpu", "0"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "gpu", "nvidia.com/pgpu", "nvidia.com/pgpu=", "nvidia.com=0", "/pgpu=0", "1nvidia.com/pgpu=0", "nvidia.com/pgpu=0=1", "nvidia.com/a/b=0", "a/b=../c", "a/b=c,", "a:x/b=c", "a/b=" + strings.Repeat("x", maxName+1)} {
		if n, err := Requested(map[string]string{"cdi.k8s.io/x": bad}); reason(err) != BadName || !strings.Contains(err.Error(), "cdi.k8s.io/x") {
			t.Errorf("%q: %v, %v", bad, n, err)
		}
	}
	var many []string
	for i := range MaxNames + 1 {
		many = append(many, fmt.Sprintf("a/b=%d", i))
	}
	if _, err := Requested(map[string]string{"cdi.k8s.io/x": strings.Join(many, ",")}); reason(err) != TooMany {
		t.Error(err)
	}
}

func TestAllowed(t *testing.T) {
	a := Allowed{"nvidia.com/pgpu", "amd.com/gpu=3"}
	if err := a.Check(); err != nil {
		t.Error(err)
	}
	for n, want := range map[string]bool{"nvidia.com/pgpu=0": true, "nvidia.com/gpu=0": false, "amd.com/gpu=3": true, "amd.com/gpu=4": false} {
		name, err := ParseName(n)
		if err != nil || a.Has(name) != want {
			t.Errorf("%s: %t, %v", n, a.Has(name), err)
		}
	}
	for _, bad := range []Allowed{{"nvidia.com"}, {"*"}, {"nvidia.com/*"}, {"a/b="}} {
		if reason(bad.Check()) != BadName {
			t.Errorf("%q passed", bad)
		}
	}
}

// node is a fake machine: a GPU with its sound function in group 7, below a bridge
// of that group, and a GPU alone in group 9.
func node(t *testing.T, specs map[string]string) *Resolver {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for address, at := range map[string]struct{ group, class string }{
		"0000:64:00.0": {"7", "0x060400"}, "0000:65:00.0": {"7", "0x030000"}, "0000:65:00.1": {"7", "0x040300"}, "0000:e5:00.0": {"9", "0x030200"},
	} {
		write("sys/bus/pci/devices/"+address+"/class", at.class+"\n")
		write("sys/kernel/iommu_groups/"+at.group+"/devices/"+address+"/x", "")
	}
	for name, to := range map[string]string{"vfio0": "../../../0000:65:00.0", "vfio1": "../../../0000:e5:00.0", "vfio2": "../../../mdev-1"} {
		write("sys/class/vfio-dev/"+name+"/dev", "")
		if err := os.Symlink(to, filepath.Join(root, "sys/class/vfio-dev", name, "device")); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range specs {
		write(name, text)
	}
	return &Resolver{Dirs: []string{filepath.Join(root, "etc/cdi"), filepath.Join(root, "run/cdi"), filepath.Join(root, "not/there")}, Root: root}
}

const gpus = `cdiVersion: 0.6.0
kind: nvidia.com/pgpu
containerEdits:
  deviceNodes: [{path: /dev/vfio/vfio}]
  hooks: [{hookName: createContainer, path: /bin/false}]
  mounts: [{hostPath: /usr/lib/x, containerPath: /lib/x, options: [ro]}]
  env: [C=d]
devices:
- name: "0"
  containerEdits: {deviceNodes: [{path: /dev/vfio/devices/vfio0}], env: [A=b]}
- name: "1"
  containerEdits: {deviceNodes: [{path: /dev/inside, hostPath: /dev/vfio/devices/vfio1}]}
- name: group
  containerEdits: {deviceNodes: [{path: /dev/vfio/7}]}
- name: all
  containerEdits: {deviceNodes: [{path: /dev/vfio/devices/vfio1}, {path: /dev/vfio/7}, {path: /dev/vfio/9}]}
- name: driver
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- {name: nothing, containerEdits: {env: [A=b]}}
- {name: gone, containerEdits: {deviceNodes: [{path: /dev/vfio/devices/vfio8}]}}
- {name: lost, containerEdits: {deviceNodes: [{path: /dev/vfio/8}]}}
- {name: mdev, containerEdits: {deviceNodes: [{path: /dev/vfio/devices/vfio2}]}}
- {name: tricky, containerEdits: {deviceNodes: [{path: /dev/vfio/devices/../../sda}]}}
- {name: played, annotations: {coffer.simulated-device: nvidia}, containerEdits: {}}
`

func TestResolve(t *testing.T) {
	r := node(t, map[string]string{
		"etc/cdi/gpus.yaml":  gpus,
		"etc/cdi/junk.yaml":  "cdiVersion: 9.0.0\n",
		"etc/cdi/README.txt": "not: [read",
		"etc/cdi/a.json":     `{"cdiVersion":"1.0.0","kind":"amd.com/gpu","devices":[{"name":"old","containerEdits":{"deviceNodes":[{"path":"/dev/vfio/9"}]}},{"name":"twice"}]}`,
		"etc/cdi/b.json":     `{"cdiVersion":"1.0.0","kind":"amd.com/gpu","devices":[{"name":"twice"}]}`,
		"run/cdi/c.json":     `{"cdiVersion":"0.8.0","kind":"amd.com/gpu","devices":[{"name":"old","containerEdits":{"deviceNodes":[{"path":"/dev/vfio/devices/vfio0"}]}}]}`,
	})
	for names, want := range map[string]Devices{
		"nvidia.com/pgpu=0":                     {PCI: []string{"0000:65:00.0"}},
		"nvidia.com/pgpu=1,nvidia.com/pgpu=0":   {PCI: []string{"0000:e5:00.0", "0000:65:00.0"}},
		"nvidia.com/pgpu=group":                 {PCI: []string{"0000:65:00.0", "0000:65:00.1"}},
		"nvidia.com/pgpu=all":                   {PCI: []string{"0000:e5:00.0", "0000:65:00.0", "0000:65:00.1"}},
		"nvidia.com/pgpu=0,nvidia.com/pgpu=all": {PCI: []string{"0000:65:00.0", "0000:e5:00.0", "0000:65:00.1"}},
		"amd.com/gpu=old":                       {PCI: []string{"0000:65:00.0"}}, // the later folder's
		"nvidia.com/pgpu=played":                {Simulated: []string{"nvidia"}},
	} {
		asked, err := Requested(map[string]string{AnnotationPrefix + "x": names})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Resolve(asked)
		if err != nil || !slices.Equal(got.PCI, want.PCI) || !slices.Equal(got.Simulated, want.Simulated) {
			t.Errorf("%s: %+v, %v", names, got, err)
		}
	}
	n := Name{"nvidia.com", "pgpu", "0"}
	if got, err := r.Resolve([]Name{n}); err != nil || !slices.Equal(got.Env, []string{"A=b", "C=d"}) || !slices.Equal(got.Mounts, []Mount{{"/usr/lib/x", "/lib/x"}}) {
		t.Errorf("what a runtime adds on the node: %+v, %v", got, err)
	}
	for name, want := range map[string]Reason{
		"nvidia.com/pgpu=9": Unknown, "nvidia.com/gpu=0": Unknown, "amd.com/gpu=twice": Ambiguous, "nvidia.com/pgpu=driver": NotVFIO, "nvidia.com/pgpu=nothing": NotVFIO,
		"nvidia.com/pgpu=gone": Gone, "nvidia.com/pgpu=lost": Gone, "nvidia.com/pgpu=mdev": NotVFIO, "nvidia.com/pgpu=tricky": NotVFIO,
	} {
		n, err := ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Resolve([]Name{n}); reason(err) != want || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, want)
		}
	}
	n.Device = "9"
	if _, err := r.Resolve([]Name{n}); !strings.Contains(err.Error(), "junk.yaml: cdiVersion") {
		t.Errorf("the file that is no specification is not named: %v", err)
	}
}

func TestParseIsRefused(t *testing.T) {
	for want, text := range map[string]string{
		"cdiVersion":      "kind: a/b\n",
		"kind":            "cdiVersion: 0.6.0\nkind: a\n",
		"devices[1].name": "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: x}, {name: x}]\n",
		"devices[0].name": "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: \"\"}]\n",
		"longer than":     strings.Repeat("#", maxSpec+1),
		"nodes":           "cdiVersion: 0.6.0\nkind: a/b\ncontainerEdits: {deviceNodes: [" + strings.Repeat("{path: a},", maxNodes+1) + "]}\n",
		"deviceNodes":     "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: x, containerEdits: {deviceNodes: [" + strings.Repeat("{path: a},", maxNodes+1) + "]}}]\n",
		"yaml":            "cdiVersion: [",
	} {
		if s, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %+v, %v, want %q", text, s, err, want)
		}
	}
}

// TestFolderIsBounded and cannot lead elsewhere.
func TestFolderIsBounded(t *testing.T) {
	many := map[string]string{}
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("etc/cdi/%d.txt", i)] = ""
	}
	n, _ := ParseName("a/b=c")
	if _, err := node(t, many).Resolve([]Name{n}); reason(err) != BadSpecDir {
		t.Error(err)
	}
	r := node(t, map[string]string{"etc/cdi/x.txt": "", "outside.yaml": gpus})
	if err := os.Symlink("../../outside.yaml", filepath.Join(r.Dirs[0], "link.yaml")); err != nil {
		t.Fatal(err)
	}
	n, _ = ParseName("nvidia.com/pgpu=0")
	if got, err := r.Resolve([]Name{n}); reason(err) != Unknown {
		t.Errorf("a link out of the folder was followed: %+v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(gpus))
	f.Add([]byte(`{"cdiVersion":"1.0.0","kind":"amd.com/gpu","devices":[{"name":"twice"}]}`))
	f.Add([]byte("cdiVersion: &a 0.6.0\nkind: *a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parse(b)
		if err != nil {
			return
		}
		if _, err := parseKind(s.Kind); err != nil {
			t.Error(err)
		}
		seen := map[string]bool{}
		for _, d := range s.Devices {
			if seen[d.Name] || len(d.Edits.paths()) > maxNodes {
				t.Errorf("%q", d.Name)
			}
			seen[d.Name] = true
			if _, err := ParseName(s.Kind + "=" + d.Name); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzRequested(f *testing.F) {
	f.Add("nvidia.com/pgpu=1, nvidia.com/pgpu=0")
	f.Add("a/b=c=d,,")
	f.Fuzz(func(t *testing.T, s string) {
		names, err := Requested(map[string]string{AnnotationPrefix + "x": s})
		if err != nil {
			return
		}
		seen := map[Name]bool{}
		for _, n := range names {
			seen[n] = true
			if again, err := ParseName(n.String()); err != nil || again != n {
				t.Errorf("%v, %v", n, err)
			}
		}
		if len(names) == 0 || len(names) > MaxNames || len(seen) != len(names) {
			t.Errorf("%d names", len(names))
		}
	})
}
