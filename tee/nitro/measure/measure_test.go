package measure

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

// What AWS's own documents show as PCR 2 of images with one ramdisk.
func TestNoApplication(t *testing.T) {
	img, err := EIF(strings.NewReader("k"), "c", strings.NewReader("r"))
	if err != nil {
		t.Fatal(err)
	}
	const published = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
	if have := hex.EncodeToString(img.PCR2); have != published {
		t.Errorf("PCR 2: %s", have)
	}
	if string(img.PCR0) != string(img.PCR1) {
		t.Error("with one ramdisk PCR 0 and PCR 1 are the same")
	}
	two, err := EIF(strings.NewReader("k"), "c", strings.NewReader("r"), strings.NewReader("app"))
	if err != nil {
		t.Fatal(err)
	}
	if string(two.PCR1) != string(img.PCR1) || string(two.PCR0) == string(img.PCR0) || string(two.PCR2) == string(img.PCR2) {
		t.Error("the application is in PCR 0 and 2, and not in PCR 1")
	}
	for name, other := range map[string]func() (*Image, error){
		"kernel":  func() (*Image, error) { return EIF(strings.NewReader("K"), "c", strings.NewReader("r")) },
		"cmdline": func() (*Image, error) { return EIF(strings.NewReader("k"), "C", strings.NewReader("r")) },
		"initrd":  func() (*Image, error) { return EIF(strings.NewReader("k"), "c", strings.NewReader("R")) },
	} {
		if o, err := other(); err != nil || string(o.PCR0) == string(img.PCR0) {
			t.Errorf("another %s: the same PCR 0, %v", name, err)
		}
	}
	if _, err := EIF(strings.NewReader("k"), "c"); err == nil {
		t.Error("no ramdisk, and measured")
	}
}

func TestFromSpec(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"kernel", "initrd"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &launch.Spec{TEE: launch.NitroSim, Kernel: launch.File{Path: filepath.Join(dir, "kernel")}, Initrd: launch.File{Path: filepath.Join(dir, "initrd")}, Cmdline: "c", VCPUs: 1, MemoryMiB: 256}
	img, err := FromSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	want, err := EIF(strings.NewReader("kernel"), "c", strings.NewReader("initrd"))
	if err != nil || string(want.PCR0) != string(img.PCR0) {
		t.Errorf("%x, %v", img.PCR0, err)
	}
	s.Kernel.SHA256 = strings.Repeat("0", 64)
	if _, err := FromSpec(s); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("another kernel: %v", err)
	}
	s.Kernel.SHA256, s.Initrd.Path = "", ""
	if _, err := FromSpec(s); err == nil {
		t.Error("no initrd, and measured")
	}
}
