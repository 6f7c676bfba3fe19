package vmm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/supervise"
)

const (
	// probeTimeout bounds the probe boot. Where KVM works a kernel gets through
	// in under a second; where it is emulated it gets nowhere in 25.
	probeTimeout = 6 * time.Second
	probeFile    = "vmm-probe.json"
	kvmDevice    = "/dev/kvm"
)

// probeResult is what was found out, and about what.
type probeResult struct {
	Boot   string `json:"boot"`
	QEMU   string `json:"qemu"`
	Kernel string `json:"kernel"`
	Major  int    `json:"major"`
	KVM    bool   `json:"kvm"`
	Why    string `json:"why,omitempty"` // why not KVM, for people
}

// Detect tells what this machine can do, by running it: QEMU's version, and
// whether a kernel boots under KVM. The presence of /dev/kvm alone proves
// nothing. The answer is kept in cacheDir until the next boot of the host or
// another QEMU or kernel.
func Detect(ctx context.Context, p *platform.Platform, cacheDir string, progress func(string)) (Machine, error) {
	kernel := probeKernel(p)
	want := probeResult{Boot: bootID(), QEMU: fileID(p.QEMU.Path), Kernel: fileID(kernel)}
	cache := filepath.Join(cacheDir, probeFile)
	if r, ok := readProbe(cache); ok && r.Boot == want.Boot && r.QEMU == want.QEMU && r.Kernel == want.Kernel {
		return Machine{QEMUMajor: r.Major, KVM: r.KVM}, nil
	}
	major, err := qemuMajor(ctx, p)
	if err != nil {
		return Machine{}, err
	}
	want.Major = major
	progress("testing whether KVM really boots a kernel here (once per boot of this host)")
	switch err := probeKVM(ctx, p, kernel, major); {
	case ctx.Err() != nil:
		return Machine{}, context.Cause(ctx)
	case err != nil:
		want.Why = fmt.Sprintf("%.200s", err)
		progress("KVM does not work here, so QEMU emulates the CPU (TCG): " + want.Why)
	default:
		want.KVM = true
	}
	writeProbe(cache, want)
	return Machine{QEMUMajor: want.Major, KVM: want.KVM}, nil
}

func probeKernel(p *platform.Platform) string {
	for _, n := range append([]string{platform.Release}, p.ImageNames()...) {
		if im, ok := p.Images[n]; ok {
			return im.VMLinux
		}
	}
	return ""
}

var errNoPanic = errors.New("the probe kernel did not get through")

// probeKVM boots a kernel without any initrd: it has worked when the kernel
// complains that there is no root file system.
func probeKVM(ctx context.Context, p *platform.Platform, kernel string, major int) error {
	kvm, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	spec := &launch.Spec{
		TEE: launch.None, Kernel: launch.File{Path: kernel}, VCPUs: 1, MemoryMiB: 256,
		Cmdline: "console=ttyS0 panic=-1 cryptomgr.notests no_timer_check root=/dev/none",
	}
	in, err := openInputs(p, spec, "")
	if err != nil {
		_ = kvm.Close()
		return err
	}
	defer in.close()
	in.paths.KVM = in.add(kvm)
	qmp, qmpChild, err := socketPair("qmp")
	if err != nil {
		return err
	}
	defer qmp.Close()
	in.paths.QMP = in.add(qmpChild)
	con, conChild, err := socketPair("console")
	if err != nil {
		return err
	}
	defer con.Close()
	in.paths.Console = in.add(conChild)
	uid, _, err := supervise.PrivateUIDs()
	if err != nil {
		return err
	}
	out, w, err := supervise.NewOutput()
	if err != nil {
		return err
	}
	cmd, err := supervise.Start(&supervise.Command{
		Path:  p.QEMU.Path,
		Args:  CommandLine(p, Machine{QEMUMajor: major, KVM: true}, spec, in.paths),
		Files: in.files, UID: uid, Output: w,
	})
	_ = w.Close()
	if err != nil {
		out.Close()
		return err
	}
	in.close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	text, _ := io.ReadAll(io.LimitReader(con, console.MaxFile))
	_ = con.Close()
	_ = cmd.Wait()
	if bytes.Contains(text, []byte("not syncing: VFS")) {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w in %s", errNoPanic, probeTimeout)
	}
	lines := strings.Split(out.Text(), "\n") // warnings come before the reason
	return fmt.Errorf("%w: %.200s", errNoPanic, lines[len(lines)-1])
}

var versionRE = regexp.MustCompile(`version (\d{1,3})\.`)

func qemuMajor(ctx context.Context, p *platform.Platform) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.QEMU.Path, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("asking QEMU for its version: %w", err)
	}
	m := versionRE.FindSubmatch(out[:min(len(out), 1<<10)])
	if m == nil {
		return 0, fmt.Errorf("asking QEMU for its version: %s does not look like QEMU", p.QEMU.Path)
	}
	return strconv.Atoi(string(m[1]))
}

// fileID tells one version of a file from another without reading it.
func fileID(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return path
	}
	return fmt.Sprintf("%s %d %d", path, fi.Size(), fi.ModTime().UnixNano())
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func readProbe(path string) (probeResult, bool) {
	var r probeResult
	f, err := os.Open(path)
	if err != nil {
		return r, false
	}
	defer f.Close()
	return r, json.NewDecoder(io.LimitReader(f, 64<<10)).Decode(&r) == nil
}

// writeProbe keeps r; without a cache the next launch probes again.
func writeProbe(path string, r probeResult) {
	b, err := json.Marshal(r)
	if err != nil || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, path)
	}
}
