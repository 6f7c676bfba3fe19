// Package guestvm_test boots the guest's PID 1 in QEMU, without a TEE, and talks
// to its agent over the guest channel. Containers run from a directory of the
// test guest's image; what needs a registry or a trustee is test/e2e's.
package guestvm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/test/agentdrive"
	"github.com/cofferproject/coffer/test/child"
)

// vm is one running machine.
type vm struct {
	*agentdrive.Agent
	t       *testing.T
	console string // file
	began   time.Time
	exited  chan struct{}
}

// Console gives what the guest has printed.
func (v *vm) Console() string {
	b, _ := os.ReadFile(v.console)
	return string(b)
}

// requireVM skips without permission to start machines, and finds the platform.
func requireVM(t *testing.T) *platform.Platform {
	t.Helper()
	if os.Getenv("COFFER_E2E") != "1" {
		t.Skip("starts virtual machines: set COFFER_E2E=1")
	}
	cache := os.Getenv("COFFER_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache", "coffer")
	}
	p, err := platform.Load(filepath.Join(cache, "guest", platform.FileName))
	if err != nil {
		t.Fatalf("no platform: run coffer guest build first: %v", err)
	}
	return p
}

// testGuest builds the test guest once and packs it over the release image.
func testGuest(t *testing.T, p *platform.Platform) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the test guest: %v\n%s", err, out)
	}
	rd, err := os.ReadFile(p.Images[platform.Release].Initrd)
	if err != nil {
		t.Fatal(err)
	}
	for len(rd)%4 != 0 {
		rd = append(rd, 0)
	}
	// A second archive behind the first: the kernel unpacks both, the later file wins.
	w := &archive{}
	w.file("init", 0o755, read(t, bin))
	for _, d := range []string{"layer", "layer/bin", "layer/etc", "layer/tmp"} {
		w.dir(d)
	}
	w.file("layer/bin/workload", 0o755, read(t, "/proc/self/exe"))
	w.end()
	out := filepath.Join(dir, "initrd.cpio")
	if err := os.WriteFile(out, append(rd, w.b.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// boot starts a machine of 256 MiB with one disk for each document and waits for
// nothing.
func boot(t *testing.T, p *platform.Platform, initrd string, disks ...[]byte) *vm {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "agent.sock")
	v := &vm{t: t, console: filepath.Join(dir, "console"), exited: make(chan struct{})}
	args := append([]string{}, p.QEMU.ArgsPrefix...)
	args = append(args,
		"-M", "q35,smbus=off,sata=off,usb=off,vmport=off,i8042=off", "-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max,-la57",
		"-m", "256", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:"+v.console,
		"-kernel", p.Images[platform.Release].VMLinux, "-initrd", initrd, "-append", p.Images[platform.Release].Cmdline,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=ch,path="+sock+",server=on,wait=off", "-device", "virtserialport,chardev=ch,name=coffer.agent.0",
		"-device", "virtio-rng-pci", "-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56,romfile=")
	for i, d := range disks {
		file := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		if err := os.WriteFile(file, d, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,file=%s,format=raw,readonly=on", i, file), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	var stderr bytes.Buffer
	cmd := exec.Command(p.QEMU.Path, args...)
	cmd.Stderr = &stderr
	v.began = time.Now()
	if err := child.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(v.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-v.exited
		if t.Failed() {
			t.Logf("console:\n%s\nQEMU: %s", v.Console(), stderr.String())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	go func() {
		select {
		case <-v.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	a, err := agentdrive.DialChannel(ctx, sock)
	if err != nil {
		return v // the machine has ended: the test looks at the console
	}
	v.Agent = a
	t.Cleanup(a.Close)
	return v
}

// device wraps a document with the policy's members as the published disk.
func device(t *testing.T, data map[string]string) []byte {
	t.Helper()
	plain, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return encode(t, plain)
}

func encode(t *testing.T, plain []byte) []byte {
	t.Helper()
	d, err := initdata.EncodeDevice(plain)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// archive is a cpio archive in the kernel's format.
type archive struct {
	b   bytes.Buffer
	ino int
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.ino++
	fmt.Fprintf(&a.b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 100000+a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.b.WriteString(name + "\x00")
	a.pad()
	a.b.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.b.Len()%4 != 0 {
		a.b.WriteByte(0)
	}
}

func (a *archive) file(name string, perm uint32, data []byte) { a.entry(name, 0o100000|perm, data) }
func (a *archive) dir(name string)                            { a.entry(name, 0o040755, nil) }
func (a *archive) end()                                       { a.entry("TRAILER!!!", 0, nil) }

// halted waits for the machine's end and gives the console.
func (v *vm) halted() string {
	v.t.Helper()
	select {
	case <-v.exited:
	case <-time.After(time.Minute):
		v.t.Fatal("the guest did not halt")
	}
	return strings.ReplaceAll(v.Console(), "\r", "")
}
