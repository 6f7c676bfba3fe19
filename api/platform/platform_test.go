package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

const doc = `{"version":1,"qemu":{"path":"q/qemu","args_prefix":["-L","data","-x"]},"swtpm":"/usr/bin/swtpm","swtpm_setup":"/usr/bin/swtpm_setup",
"firmware":{"code":"code.fd","vars":"/v/vars.fd","sha256":"aa"},
"images":{"release":{"kernel":"vmlinuz","vmlinux":"vmlinux","initrd":"initrd.cpio","cmdline":"quiet","initrd_sha256":"bb"}},
"measurements":"measurements.json"}`

func TestLoadResolvesPaths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		p.QEMU.Path:              dir + "/q/qemu",
		p.QEMU.ArgsPrefix[1]:     dir + "/data",
		p.QEMU.ArgsPrefix[2]:     "-x",
		p.SWTPM:                  "/usr/bin/swtpm",
		p.Firmware.Code:          dir + "/code.fd",
		p.Firmware.Vars:          "/v/vars.fd",
		p.Images[Release].Initrd: dir + "/initrd.cpio",
		p.Measurements:           dir + "/measurements.json",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	s, err := p.Spec(launch.TPMSim, Release, 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	if s.Kernel.Path != dir+"/vmlinuz" || s.Firmware.SHA256 != "aa" || s.Initrd.SHA256 != "bb" {
		t.Errorf("spec with firmware: %+v", s)
	}
	if s, err = p.Spec(launch.None, Release, 256, 1); err != nil || s.Kernel.Path != dir+"/vmlinux" || s.Firmware.Path != "" {
		t.Errorf("spec without firmware: %+v, %v", s, err)
	}
	if _, err := p.Spec(launch.TPMSim, Debug, 256, 1); err == nil {
		t.Error("a spec for an image that is not there")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"empty":         "",
		"unknown field": strings.Replace(doc, `"version":1`, `"version":1,"x":1`, 1),
		"version":       strings.Replace(doc, `"version":1`, `"version":2`, 1),
		"no firmware":   strings.Replace(doc, `"code":"code.fd",`, "", 1),
		"no kernel":     strings.Replace(doc, `"kernel":"vmlinuz",`, "", 1),
		"no images":     strings.Replace(doc, `"images":{"release"`, `"images":{},"qemu":{"release"`, 1),
		"two documents": doc + doc,
	} {
		if _, err := Parse([]byte(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
