package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/sandbox"
)

// These tests boot VMs: COFFER_E2E=1, and a platform (COFFER_PLATFORM, else the
// usual place under the cache directory).

type bench struct {
	p      *platform.Platform
	cache  string
	initrd string
}

func setup(t testing.TB) *bench {
	t.Helper()
	if os.Getenv("COFFER_E2E") == "" {
		t.Skip("boots VMs: set COFFER_E2E=1")
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("COFFER_PLATFORM")
	if path == "" {
		path = filepath.Join(cache, "guest", platform.FileName)
	}
	p, err := platform.Load(path)
	if err != nil {
		t.Fatalf("%v (coffer guest build makes it)", err)
	}
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./internal/testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the test guest: %v\n%s", err, out)
	}
	b, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd")
	// Mode 0600: the launcher must cope with files that QEMU's uid cannot open.
	if err := os.WriteFile(initrd, cpio("init", b), 0o600); err != nil {
		t.Fatal(err)
	}
	return &bench{p, cache, initrd}
}

// cpio makes a newc archive of the directory /dev and one executable.
func cpio(name string, data []byte) []byte {
	var b bytes.Buffer
	entry := func(ino, mode int, name string, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	entry(1, 0o040755, "dev", nil)
	entry(2, 0o100755, name, data)
	entry(0, 0, "TRAILER!!!", nil)
	return b.Bytes()
}

func (b *bench) spec(t testing.TB, tee launch.TEE) *launch.Spec {
	t.Helper()
	s, err := b.p.Spec(tee, platform.Release, 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Initrd = launch.File{Path: b.initrd}
	s.Initdata = []byte("version = \"0.1.0\"\n")
	return s
}

// runDir is a run directory; at the end of the test it must be empty again.
func runDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ents, err := os.ReadDir(dir)
		if err != nil || len(ents) != 0 {
			t.Errorf("left behind in the run directory: %v, %v", ents, err)
		}
	})
	return dir
}

func (b *bench) launch(t testing.TB, spec *launch.Spec, opt Options) *VM {
	t.Helper()
	opt.CacheDir = b.cache
	d, err := New(b.p, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	sb, err := d.Launch(ctx, "test", runDir(t), spec, func(m string) { t.Log(m) })
	if err != nil {
		t.Fatal(err)
	}
	vm := sb.(*VM)
	t.Cleanup(func() {
		if err := vm.Destroy(); err != nil {
			t.Error(err)
		}
		for n, pid := range vm.PIDs() {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("%s (%d) is still there", n, pid)
			}
		}
	})
	return vm
}

func dial(t testing.TB, vm *VM, kind byte) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := vm.Dial(ctx, kind)
	if err != nil {
		t.Fatalf("%v\n%s", err, vm.console.Tail())
	}
	return c
}

func echo(t testing.TB, c net.Conn, n int) {
	t.Helper()
	want := bytes.Repeat([]byte{'e'}, n)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		_, _ = c.Write(want)
		_ = c.(*channel.Conn).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echo: %d of %d bytes, %v", len(got), n, err)
	}
}

func TestBoot(t *testing.T) {
	b := setup(t)
	for _, tee := range []launch.TEE{launch.None, launch.TPMSim} {
		t.Run(string(tee), func(t *testing.T) {
			start := time.Now()
			vm := b.launch(t, b.spec(t, tee), Options{})
			running := time.Since(start)
			c := dial(t, vm, 't')
			_, _ = c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			answered := time.Since(start)
			_ = c.Close()
			t.Logf("MEASURE %s: QEMU runs after %.2f s, the guest answers after %.2f s, RSS %v", tee, running.Seconds(), answered.Seconds(), rss(vm))
			echo(t, dial(t, vm, 't'), 1<<20)
			confined(t, vm)
			text := consoleText(t, vm)
			for slot, id := range map[string]string{"01": "0x1043", "02": "0x1041", "03": "0x1044", "04": "0x1042"} {
				if !strings.Contains(text, "device 0000:00:"+slot+".0 "+id+", no ROM") {
					t.Errorf("no virtio device %s in slot %s:\n%s", id, slot, text)
				}
			}
			if n := strings.Count(text, "TESTGUEST device"); n != 4+2 { // and host bridge and LPC
				t.Errorf("%d devices, want 6:\n%s", n, text)
			}
			if der, spki := vm.EKRoot(); (tee == launch.TPMSim) != (len(der) > 0 && len(spki) == 64) {
				t.Errorf("EK root: %d bytes, %q", len(der), spki)
			}
			if got := strings.Contains(text, "TESTGUEST has a TPM"); got != (tee == launch.TPMSim) {
				t.Errorf("TPM in the guest: %v", got)
			}
			// Powering off is an end of its own kind.
			_ = dial(t, vm, 'p')
			if e := vm.Wait(); e.Reason != nodeapi.ReasonGuestShutdown {
				t.Errorf("exit %+v", e)
			}
		})
	}
}

func consoleText(t testing.TB, vm *VM) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vm.dir, nodeapi.ConsoleLog))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rss(vm *VM) map[string]string {
	out := map[string]string{}
	for n, pid := range vm.PIDs() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
				kb, _ := strconv.Atoi(strings.Fields(v)[0])
				out[n] = fmt.Sprintf("%d MiB", kb/1024)
			}
		}
	}
	return out
}

// confined checks what the processes may do, as the kernel sees it.
func confined(t *testing.T, vm *VM) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	uids := map[string]bool{}
	for n, pid := range vm.PIDs() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(l), ":")
			f := strings.Fields(v)
			switch k {
			case "Uid":
				if f[0] == "0" || f[0] != f[1] || f[0] != f[2] || uids[f[0]] {
					t.Errorf("%s: uids %v", n, f)
				}
				uids[f[0]] = true
			case "Groups":
				if len(f) != 0 {
					t.Errorf("%s: supplementary groups %v", n, f)
				}
			case "CapEff", "CapPrm", "CapAmb":
				if strings.Trim(f[0], "0") != "" {
					t.Errorf("%s: %s %s", n, k, f[0])
				}
			case "Seccomp":
				if f[0] != "2" {
					t.Errorf("%s: seccomp mode %s", n, f[0])
				}
			case "NoNewPrivs":
				if n == "qemu" && f[0] != "1" {
					t.Errorf("%s may gain privileges", n)
				}
			}
		}
		lim, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		for l := range strings.Lines(string(lim)) {
			if f := strings.Fields(l); strings.HasPrefix(l, "Max core file size") && f[4] != "0" {
				t.Errorf("%s may dump core: %s", n, l)
			}
		}
	}
}

func TestEnds(t *testing.T) {
	b := setup(t)
	t.Run("panic", func(t *testing.T) {
		vm := b.launch(t, b.spec(t, launch.None), Options{})
		_ = dial(t, vm, 'x')
		if e := vm.Wait(); e.Reason != nodeapi.ReasonGuestPanic || !strings.Contains(e.Console, "Kernel panic") {
			t.Errorf("exit %s\n%s", e.Reason, e.Console)
		}
	})
	t.Run("killed", func(t *testing.T) {
		vm := b.launch(t, b.spec(t, launch.None), Options{})
		_ = syscall.Kill(vm.PIDs()["qemu"], syscall.SIGKILL)
		if e := vm.Wait(); e.Reason != nodeapi.ReasonKilled {
			t.Errorf("exit %+v", e)
		}
	})
	t.Run("tpm killed", func(t *testing.T) {
		vm := b.launch(t, b.spec(t, launch.TPMSim), Options{})
		_ = syscall.Kill(vm.PIDs()["swtpm"], syscall.SIGKILL)
		if e := vm.Wait(); e.Reason != nodeapi.ReasonCrashed || e.Detail != "swtpm ended: signal: killed" {
			t.Errorf("exit %+v", e)
		}
	})
	t.Run("silent", func(t *testing.T) {
		// A busy machine does not boot the guest within the short time.
		var e sandbox.Exit
		for _, limit := range []time.Duration{15 * time.Second, 90 * time.Second} {
			s := b.spec(t, launch.None)
			s.Cmdline += " testguest=silent"
			vm := b.launch(t, s, Options{BootTimeout: limit})
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			if _, err := vm.Dial(ctx, 't'); err == nil {
				t.Error("a silent guest was reached")
			}
			if e = vm.Wait(); e.Reason != nodeapi.ReasonNoAnswer || strings.Contains(e.Console, "TESTGUEST says nothing") {
				break
			}
		}
		if e.Reason != nodeapi.ReasonNoAnswer || !strings.Contains(e.Console, "TESTGUEST says nothing") {
			t.Errorf("exit %+v", e)
		}
		if strings.Contains(e.Console, "\x1b") {
			t.Error("the console's tail can move a terminal's cursor")
		}
	})
}

func TestRefusals(t *testing.T) {
	b := setup(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		name, want string
		change     func(*launch.Spec, *platform.Platform)
	}{
		{"port in use", "in use", func(s *launch.Spec, _ *platform.Platform) {
			s.Publish = []launch.PortForward{{HostPort: busy, GuestPort: 80, Protocol: "tcp"}}
		}},
		{"no QEMU", "QEMU is missing", func(_ *launch.Spec, p *platform.Platform) { p.QEMU.Path = "/nonexistent/qemu" }},
		{"no swtpm", "swtpm is missing", func(_ *launch.Spec, p *platform.Platform) { p.SWTPM = "/nonexistent/swtpm" }},
		{"no kernel", "opening the kernel", func(s *launch.Spec, _ *platform.Platform) { s.Kernel.Path = "/nonexistent/kernel" }},
		{"other kernel", "SHA-256", func(s *launch.Spec, _ *platform.Platform) { s.Kernel.SHA256 = strings.Repeat("0", 64) }},
		{"unknown TEE", "not one this driver launches", func(s *launch.Spec, _ *platform.Platform) { s.TEE = "csv" }},
		{"no firmware", "firmware", func(s *launch.Spec, _ *platform.Platform) { s.Firmware.Path = "" }},
		{"bad CPU", "QEMU refused", func(s *launch.Spec, _ *platform.Platform) { s.CPUModel = "pentium9" }},
		{"bad initdata", "initdata", func(s *launch.Spec, _ *platform.Platform) { s.Initdata = make([]byte, launch.MaxInitdata+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := *b.p
			s := b.spec(t, launch.TPMSim)
			c.change(s, &p)
			d, err := New(&p, Options{CacheDir: b.cache})
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Launch(context.Background(), "test", runDir(t), s, func(string) {})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("err = %v, want %q in it", err, c.want)
			}
			t.Log(err)
		})
	}
}

func TestPublish(t *testing.T) {
	b := setup(t)
	port := 0
	for p := 700; p < 1024; p++ { // privileged: QEMU is not, but may bind it
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p)); err == nil {
			_ = l.Close()
			port = p
			break
		}
	}
	if port == 0 {
		t.Skip("no free port below 1024 that this user may bind")
	}
	s := b.spec(t, launch.None)
	s.Publish = []launch.PortForward{{HostPort: port, GuestPort: 80, Protocol: "tcp"}}
	b.launch(t, s, Options{})
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
