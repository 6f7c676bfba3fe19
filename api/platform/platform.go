// Package platform is the contract platform.json: where the parts of one built
// platform lie on this machine (QEMU, swtpm, firmware, guest images), as
// `coffer guest build` writes it and host/vmm and the command line read it.
//
// Trust zone: none of its own. The file names host paths, so nothing in it is
// evidence of anything: what a TEE really booted is shown by its measurement
// only. The digests in it give an early, friendly error.
package platform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"github.com/cofferproject/coffer/api/launch"
)

// Version is the only version of the format.
const Version = 1

// FileName is the file's usual name in the output folder of a build.
const FileName = "platform.json"

// MeasurementsName is the usual name of the reference values beside it.
const MeasurementsName = "measurements.json"

const maxSize = 1 << 20

// Variants of the guest image. Each has a measurement of its own.
const (
	Release  = "release"   // coffer-guest
	Sim      = "sim"       // coffer-guest-sim: simulated attesters linked in
	Debug    = "debug"     // release with the debug marker and a talking kernel
	SimDebug = "sim-debug" // both
)

// Variants lists every variant in the order in which they are shown.
var Variants = []string{Release, Sim, Debug, SimDebug}

// Platform is one platform.json. Load returns it with absolute paths.
type Platform struct {
	Version    int      `json:"version"`
	QEMU       QEMU     `json:"qemu"`
	SWTPM      string   `json:"swtpm"`
	SWTPMSetup string   `json:"swtpm_setup"`
	Firmware   Firmware `json:"firmware"`
	// TEEFirmware is what TEE hardware measures, by the TEE's wire name ("snp").
	TEEFirmware  map[string]TEEFirmware `json:"tee_firmware,omitempty"`
	Images       map[string]Image       `json:"images"`
	Measurements string                 `json:"measurements"`
}

// QEMU names the emulator and the arguments that come before all others.
type QEMU struct {
	Path       string   `json:"path"`
	ArgsPrefix []string `json:"args_prefix,omitempty"`
	Version    string   `json:"version,omitempty"` // package version, for people
}

// Firmware is the OVMF pair.
type Firmware struct {
	Code       string `json:"code"` // read-only code volume
	Vars       string `json:"vars"` // template of the variable store, copied per VM
	SHA256     string `json:"sha256"`
	VarsSHA256 string `json:"vars_sha256,omitempty"`
	Package    string `json:"package,omitempty"` // name and version, for people
}

// TEEFirmware is the firmware of one TEE.
type TEEFirmware struct {
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	Package string `json:"package,omitempty"` // name and version, for people
}

// Image is one guest image.
type Image struct {
	Kernel        string `json:"kernel"`  // bzImage, for firmware boot
	VMLinux       string `json:"vmlinux"` // PVH ELF, for boot without firmware
	Initrd        string `json:"initrd"`
	Cmdline       string `json:"cmdline"`
	KernelSHA256  string `json:"kernel_sha256,omitempty"`
	VMLinuxSHA256 string `json:"vmlinux_sha256,omitempty"`
	InitrdSHA256  string `json:"initrd_sha256,omitempty"`
}

// Load reads path strictly: unknown fields, missing parts and another version
// are errors. Relative paths in the file are taken from the file's folder.
func Load(path string) (*Platform, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading platform: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading platform: %w", err)
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("reading platform %s: larger than %d bytes", path, maxSize)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading platform %s: %w", path, err)
	}
	abs, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("reading platform: %w", err)
	}
	p.resolve(abs)
	return p, nil
}

// Parse decodes and validates b; paths stay as they are.
func Parse(b []byte) (*Platform, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	p := new(Platform)
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding: data after the document")
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

// Validate reports the first missing part.
func (p *Platform) Validate() error {
	if p.Version != Version {
		return fmt.Errorf("version %d is not supported, only %d", p.Version, Version)
	}
	for _, f := range []struct{ name, value string }{
		{"qemu.path", p.QEMU.Path},
		{"swtpm", p.SWTPM},
		{"swtpm_setup", p.SWTPMSetup},
		{"firmware.code", p.Firmware.Code},
		{"firmware.vars", p.Firmware.Vars},
		{"firmware.sha256", p.Firmware.SHA256},
		{"measurements", p.Measurements},
	} {
		if f.value == "" {
			return fmt.Errorf("%s is missing", f.name)
		}
	}
	if len(p.Images) == 0 {
		return errors.New("images is missing")
	}
	for n, fw := range p.TEEFirmware {
		if fw.Path == "" || fw.SHA256 == "" {
			return fmt.Errorf("tee_firmware[%s]: path and sha256 must be given", n)
		}
	}
	for _, n := range p.ImageNames() {
		im := p.Images[n]
		if im.Kernel == "" || im.VMLinux == "" || im.Initrd == "" || im.Cmdline == "" {
			return fmt.Errorf("images[%s]: kernel, vmlinux, initrd and cmdline must all be given", n)
		}
	}
	return nil
}

// ImageNames lists the variants present, sorted.
func (p *Platform) ImageNames() []string {
	var ns []string
	for n := range p.Images {
		ns = append(ns, n)
	}
	sort.Strings(ns)
	return ns
}

// Image gives the named variant.
func (p *Platform) Image(variant string) (Image, error) {
	im, ok := p.Images[variant]
	if !ok {
		return Image{}, fmt.Errorf("the platform has no guest image %q, only %v", variant, p.ImageNames())
	}
	return im, nil
}

// Spec gives the LaunchSpec of one variant, without initdata: under OVMF, with
// the TEE's firmware where hardware or its simulation measures one.
func (p *Platform) Spec(tee launch.TEE, variant string, memoryMiB, vcpus int) (*launch.Spec, error) {
	im, err := p.Image(variant)
	if err != nil {
		return nil, err
	}
	s := &launch.Spec{
		TEE:       tee,
		Kernel:    launch.File{Path: im.Kernel, SHA256: im.KernelSHA256},
		Initrd:    launch.File{Path: im.Initrd, SHA256: im.InitrdSHA256},
		Cmdline:   im.Cmdline,
		VCPUs:     vcpus,
		MemoryMiB: memoryMiB,
	}
	if tee == launch.None {
		s.Kernel = launch.File{Path: im.VMLinux, SHA256: im.VMLinuxSHA256}
		return s, nil
	}
	if fw, ok := p.TEEFirmware[tee.Firmware()]; ok {
		s.TEEFirmware = launch.File{Path: fw.Path, SHA256: fw.SHA256}
	}
	s.CPUModel = tee.DefaultCPUModel()
	if tee.Played() {
		// Emulation boots the same bzImage without the TEE's firmware.
		return s, nil
	}
	if tee.Hardware() {
		return s, nil // hardware starts nothing but the firmware that it measures
	}
	s.Firmware = launch.File{Path: p.Firmware.Code, SHA256: p.Firmware.SHA256}
	s.VarsFile = launch.File{Path: p.Firmware.Vars, SHA256: p.Firmware.VarsSHA256}
	return s, nil
}

func (p *Platform) resolve(dir string) {
	abs := func(s *string) {
		if *s != "" && !filepath.IsAbs(*s) {
			*s = filepath.Join(dir, *s)
		}
	}
	for _, s := range []*string{&p.QEMU.Path, &p.SWTPM, &p.SWTPMSetup, &p.Firmware.Code, &p.Firmware.Vars, &p.Measurements} {
		abs(s)
	}
	for n, fw := range p.TEEFirmware {
		abs(&fw.Path)
		p.TEEFirmware[n] = fw
	}
	// In args_prefix only the values of -L are paths.
	for i := 1; i < len(p.QEMU.ArgsPrefix); i++ {
		if p.QEMU.ArgsPrefix[i-1] == "-L" {
			abs(&p.QEMU.ArgsPrefix[i])
		}
	}
	for n, im := range p.Images {
		abs(&im.Kernel)
		abs(&im.VMLinux)
		abs(&im.Initrd)
		p.Images[n] = im
	}
}
