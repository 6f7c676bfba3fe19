// Package guestimage builds the guest images: kernel and modules of the pinned
// Debian package, coffer-guest as PID 1, and what they will measure. No shell, no
// service manager, no certificate authorities: all configuration comes through
// initdata, so the command line is constant (design.md section 5).
//
// Invariant: same source revision, same packages and same Go compiler give the
// same bytes and so the same measurement; nothing of the building machine (time,
// paths, user, environment) takes part.
//
// Trust zone: owner. What is built here runs inside the TEE.
package guestimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/guestimage/internal/bzimage"
	"github.com/cofferproject/coffer/owner/guestimage/internal/kmod"
	"github.com/cofferproject/coffer/owner/platform"
)

// DebugCmdline lets the kernel of debug variants speak on the console.
const DebugCmdline = "console=ttyS0 loglevel=7 panic=-1 oops=panic cryptomgr.notests no_timer_check " + launch.CPUsCmdline

// Names of files in the output folder.
const (
	KernelName  = "vmlinuz"
	VMLinuxName = "vmlinux"
	BareName    = "initrd-bare.cpio" // test/bench/bareinit alone
)

// The firmware's files. The build for 2 MiB of flash boots two seconds faster
// under TCG than the one for 4 MiB and measures the same things.
const (
	codeName = "OVMF_CODE.fd"
	varsName = "OVMF_VARS.fd"
)

// InitrdName gives the file name of a variant's initrd.
func InitrdName(variant string) string {
	if variant == apiplatform.Release {
		return "initrd.cpio"
	}
	return "initrd-" + variant + ".cpio"
}

// variant is how one image differs from the others.
type variant struct {
	name, pkg, cmdline string
	debug              bool
}

var variants = []variant{
	{apiplatform.Release, "./cmd/coffer-guest", launch.ConstantCmdline, false},
	{apiplatform.Sim, "./cmd/coffer-guest-sim", launch.ConstantCmdline, false},
	{apiplatform.Debug, "./cmd/coffer-guest", DebugCmdline, true},
	{apiplatform.SimDebug, "./cmd/coffer-guest-sim", DebugCmdline, true},
}

const barePackage = "./test/bench/bareinit"

// Inputs say what to build and from what.
type Inputs struct {
	Source   string           // Coffer's source tree
	Packages *platform.Result // unpacked packages
	Out      string           // output folder
	Variants []string         // nil: all
	Progress func(string)
}

// Output is a finished build.
type Output struct {
	Path      string // platform.json
	Platform  *apiplatform.Platform
	Bundle    *refvalue.Bundle
	Unchanged bool // everything was there already
	// Previous is what the folder held before, nil if nothing.
	Previous *refvalue.Bundle
}

// Build makes the images and everything that describes them.
func Build(ctx context.Context, in Inputs) (*Output, error) {
	if in.Progress == nil {
		in.Progress = func(string) {}
	}
	chosen, err := choose(in.Variants)
	if err != nil {
		return nil, err
	}
	out, err := filepath.Abs(in.Out)
	if err != nil {
		return nil, fmt.Errorf("building guest: %w", err)
	}
	unlock, err := lockOut(out)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := &builder{in: in, out: out, variants: chosen}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.tmp)
	if o, ok := b.unchanged(); ok {
		return o, nil
	}
	return b.build(ctx)
}

func choose(names []string) ([]variant, error) {
	if len(names) == 0 {
		return variants, nil
	}
	for _, n := range names {
		if !slices.Contains(apiplatform.Variants, n) {
			return nil, fmt.Errorf("there is no guest variant %q, only %s", n, strings.Join(apiplatform.Variants, ", "))
		}
	}
	var vs []variant
	for _, v := range variants {
		if slices.Contains(names, v.name) {
			vs = append(vs, v)
		}
	}
	return vs, nil
}

type builder struct {
	in       Inputs
	out, tmp string
	variants []variant

	goVersion, revision string
	floor               int64
	inits               map[string][]byte // by Go package
	kernelDir           string
	firmware            platform.Package
	code, vars          string
	key                 string
	platform            *apiplatform.Platform
	files               map[string][]byte // written to the output folder
}

// prepare compiles the programs and finds every input, so that the key of the
// build is known.
func (b *builder) prepare(ctx context.Context) (err error) {
	if b.goVersion, err = goVersion(ctx, b.in.Source); err != nil {
		return err
	}
	if b.floor, b.revision, err = sourceFloor(ctx, b.in.Source); err != nil {
		return err
	}
	if err := b.findPackages(); err != nil {
		return err
	}
	if b.tmp, err = os.MkdirTemp(b.out, ".build-"); err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(b.tmp)
		}
	}()
	b.inits = map[string][]byte{}
	pkgs := []string{barePackage}
	for _, v := range b.variants {
		if !slices.Contains(pkgs, v.pkg) {
			pkgs = append(pkgs, v.pkg)
		}
	}
	for _, pkg := range pkgs {
		name := filepath.Base(pkg)
		b.in.Progress("compiling " + name + " (PID 1 of the guest)")
		bin := filepath.Join(b.tmp, name)
		if err := goBuild(ctx, b.in.Source, pkg, bin); err != nil {
			return err
		}
		if b.inits[pkg], err = os.ReadFile(bin); err != nil {
			return fmt.Errorf("building guest: %w", err)
		}
	}
	return b.computeKey()
}

func (b *builder) findPackages() error {
	var err error
	if b.kernelDir, _, err = b.in.Packages.Dir(platform.RoleKernel); err != nil {
		return err
	}
	var fw string
	if fw, b.firmware, err = b.in.Packages.Dir(platform.RoleFirmware); err != nil {
		return err
	}
	b.code = filepath.Join(fw, "usr/share/OVMF", codeName)
	b.vars = filepath.Join(fw, "usr/share/OVMF", varsName)
	if b.platform, err = hostPart(b.in.Packages); err != nil {
		return err
	}
	return b.findTEEFirmware()
}

// teeFirmware lists what TEEs measure: kind, package, file in it.
var teeFirmware = []struct{ kind, pkg, path string }{
	{"snp", "ovmf-amdsev", "usr/share/ovmf/OVMF.amdsev.fd"},
	{"tdx", "ovmf-inteltdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd"},
}

func (b *builder) findTEEFirmware() error {
	b.platform.TEEFirmware = map[string]apiplatform.TEEFirmware{}
	for _, f := range teeFirmware {
		i := slices.IndexFunc(b.in.Packages.Packages, func(p platform.Package) bool { return p.Name == f.pkg })
		if i < 0 {
			return fmt.Errorf("building guest: the lock has no package %s", f.pkg)
		}
		path := filepath.Join(b.in.Packages.Dirs[f.pkg], f.path)
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("building guest: %w", err)
		}
		b.platform.TEEFirmware[f.kind] = apiplatform.TEEFirmware{Path: path, SHA256: sum(data), Package: b.in.Packages.Packages[i].String()}
	}
	return nil
}

// hostPart finds the programs that the host runs.
func hostPart(ps *platform.Result) (*apiplatform.Platform, error) {
	p := &apiplatform.Platform{Version: apiplatform.Version}
	for _, k := range ps.Packages {
		dir := ps.Dirs[k.Name]
		switch k.Name {
		case "qemu-system-x86":
			p.QEMU.Path = filepath.Join(dir, "usr/bin/qemu-system-x86_64")
			p.QEMU.Version = k.Version
		case "qemu-system-data":
			p.QEMU.ArgsPrefix = append(p.QEMU.ArgsPrefix, "-L", filepath.Join(dir, "usr/share/qemu"))
		case "seabios":
			p.QEMU.ArgsPrefix = append(p.QEMU.ArgsPrefix, "-L", filepath.Join(dir, "usr/share/seabios"))
		}
	}
	// The dynamic linker's complaint names the library; say the remedy here.
	if out, err := exec.Command(p.QEMU.Path, "--version").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("starting QEMU %s: %w: %.300s (make deps installs its libraries)",
			p.QEMU.Version, err, strings.TrimSpace(string(out)))
	}
	for _, t := range []struct {
		name string
		path *string
	}{{"swtpm", &p.SWTPM}, {"swtpm_setup", &p.SWTPMSetup}} {
		path, err := exec.LookPath(t.name)
		if err != nil {
			return nil, fmt.Errorf("finding %s: %w (apt-get install swtpm swtpm-tools)", t.name, err)
		}
		if *t.path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("finding %s: %w", t.name, err)
		}
	}
	return p, nil
}

// HostLibraries lists the Debian 12 packages with the libraries that QEMU 10
// is linked with.
var HostLibraries = []string{
	"libaio1", "libbpf1", "libcapstone4", "libfdt1", "libfuse3-3", "libglib2.0-0", "libibverbs1",
	"libjpeg62-turbo", "libnuma1", "libpixman-1-0", "libpmem1", "libpng16-16", "librdmacm1",
	"libsasl2-2", "libseccomp2", "libslirp0", "libudev1", "liburing2", "libvdeplug2", "libzstd1",
}

func (b *builder) build(ctx context.Context) (*Output, error) {
	o := &Output{Path: filepath.Join(b.out, apiplatform.FileName), Previous: readBundle(filepath.Join(b.out, apiplatform.MeasurementsName))}
	if err := os.Remove(b.stampPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("building guest: %w", err)
	}
	b.in.Progress("packing kernel, modules and images")
	if err := b.pack(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.in.Progress("computing what each VM size will measure")
	bundle, err := b.measure(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.write(bundle); err != nil {
		return nil, err
	}
	o.Bundle = bundle
	if o.Platform, err = apiplatform.Load(o.Path); err != nil {
		return nil, err
	}
	return o, nil
}

// pack makes the files that boot.
func (b *builder) pack() error {
	mods, err := kmod.Open(b.kernelDir)
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile(filepath.Join(b.kernelDir, "boot", "vmlinuz-"+mods.Release))
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	elf, err := bzimage.ExtractELF(kernel)
	if err != nil {
		return fmt.Errorf("building guest: %w", err)
	}
	sel, err := mods.Select(Modules)
	if err != nil {
		return err
	}
	volumes, err := mods.Select(VolumeModules)
	if err != nil {
		return err
	}
	faster, err := mods.Select(VolumeAccelerators)
	if err != nil {
		return err
	}
	drivers := map[string][]kmod.Module{}
	for _, d := range TEEDrivers {
		if drivers[d], err = mods.Select([]string{d}); err != nil {
			return err
		}
	}
	b.files = map[string][]byte{KernelName: kernel, VMLinuxName: elf}
	for _, v := range b.variants {
		b.files[InitrdName(v.name)], err = initrd(contents{
			variant: v.name, init: b.inits[v.pkg], modules: sel, drivers: drivers, volumes: volumes, faster: faster,
			floor: b.floor, debug: v.debug,
		})
		if err != nil {
			return err
		}
	}
	b.files[BareName], err = BareInitrd(b.inits[barePackage])
	return err
}

// lockOut makes the output folder and holds it against concurrent builds.
func lockOut(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("building guest: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("building guest: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("building guest: %w", err)
	}
	return func() { f.Close() }, nil
}
