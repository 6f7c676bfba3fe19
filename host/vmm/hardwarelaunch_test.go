package vmm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/hostcheck"
	"github.com/cofferproject/coffer/test/launchcases"
)

func TestCheckHardware(t *testing.T) {
	for _, c := range launchcases.Cases() {
		if err := checkHardware(&c.Spec); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	f := launch.File{Path: "f"}
	for want, s := range map[string]launch.Spec{
		"tee_firmware alone":        {TEE: launch.SNP, TEEFirmware: f, Firmware: f},
		"keeps no variables":        {TEE: launch.TDX, TEEFirmware: f, VarsFile: f},
		"tee_firmware: missing":     {TEE: launch.SNP},
		"se has none":               {TEE: launch.SE, TEEFirmware: f},
		"host's":                    {TEE: launch.TDX, TEEFirmware: f, CPUModel: "EPYC"},
		"no name of a model":        {TEE: launch.SNP, TEEFirmware: f, CPUModel: "EPYC,+svm"},
		"launch of se binds none":   {TEE: launch.SE, Initdata: []byte{}},
		"launch of sev binds none":  {TEE: launch.SEV, TEEFirmware: f, Initdata: []byte("x")},
		"vmm: \"ec2\"":              {TEE: launch.SNP, TEEFirmware: f, SNP: &launch.SNPParams{VMM: "ec2"}},
		"features 0x21":             {TEE: launch.SNP, TEEFirmware: f, SNP: &launch.SNPParams{Features: 0x21}},
		"policy 0x4 is none of sev": {TEE: launch.SEV, TEEFirmware: f, SNP: &launch.SNPParams{Policy: 4}},
		"policy 0x3 is none of sev": {TEE: launch.SEVES, TEEFirmware: f, SNP: &launch.SNPParams{Policy: 3}},
		"policy 0x1 is none of snp": {TEE: launch.SNP, TEEFirmware: f, SNP: &launch.SNPParams{Policy: 1}},
	} {
		if err := checkHardware(&s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestMissingHardwareIsOneError launches on this machine, which has no QEMU where
// the platform says: whatever else it has, nothing starts, and nothing else is tried.
func TestMissingHardwareIsOneError(t *testing.T) {
	qemu := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(qemu, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range launchcases.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			d, err := New(&platform.Platform{QEMU: platform.QEMU{Path: qemu}}, Options{CacheDir: t.TempDir(), AskOwner: func(context.Context, string, *launch.SEVMeasurement) (*launch.SEVSecret, error) {
				t.Error("the owner is asked, and nothing was measured")
				return nil, errors.New("none")
			}})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			_, err = d.Launch(t.Context(), "x", dir, c.Write(t), func(s string) { t.Error("progress: " + s) })
			var missing *hostcheck.NotReadyError
			if !errors.As(err, &missing) || missing.TEE != c.Spec.TEE {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestOpenDeviceFor opens a device that is root's alone, through the descriptor and
// under another uid, as QEMU does.
func TestOpenDeviceFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const uid = 64321
	theirs := filepath.Join("/dev", ".coffer-test-null")
	_ = os.Remove(theirs)
	if err := syscall.Mknod(theirs, syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
		t.Skipf("no device nodes here: %v", err)
	}
	defer os.Remove(theirs)
	open := func(f *os.File) error {
		c := exec.Command("/bin/sh", "-c", "exec 4<>/dev/fd/3")
		c.ExtraFiles = []*os.File{f}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return c.Run()
	}
	f, err := os.OpenFile(theirs, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no devices here: %v", err)
	}
	defer f.Close()
	if open(f) == nil {
		t.Fatal("anybody can open it: the test shows nothing")
	}
	g, err := openDeviceFor(theirs, uid)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := open(g); err != nil {
		t.Errorf("the process cannot open it: %v", err)
	}
	if left, _ := filepath.Glob("/dev/.coffer-[0-9]*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := openDeviceFor("/etc/passwd", uid); err == nil {
		t.Error("a file was taken for a device")
	}
}
