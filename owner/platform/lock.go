// Package platform gets the distribution packages that a platform is made of:
// the guest's kernel and firmware, which are measured, and the emulator, which
// is not. platform.lock.json pins suite, version and SHA-256 of each; packages
// are unpacked into a cache of ours and never installed, so that the machine
// stays as it is (design.md section 5, platform pins).
//
// Invariants: nothing is unpacked whose SHA-256 is not the lock's; a package
// that the mirror no longer has is refused, never silently replaced; the cache
// is filled by renames, so that an interrupted or concurrent run harms nothing.
//
// Trust zone: owner.
package platform

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// LockVersion is the only version of the lock file.
const LockVersion = 1

// LockName is the lock file's name, at the top of the source tree.
const LockName = "platform.lock.json"

// Roles of packages.
const (
	RoleKernel   = "kernel"   // measured: kernel and modules of the guest
	RoleFirmware = "firmware" // measured: OVMF
	// RoleTEEFirmware is measured by TEE hardware and its simulators, and run by
	// hardware alone.
	RoleTEEFirmware = "tee-firmware"
	RoleEmulator    = "emulator" // not measured: QEMU and its ROMs
)

// Lock is platform.lock.json.
type Lock struct {
	Version  int       `json:"version"`
	Packages []Package `json:"packages"`
}

// Package is one pinned package.
type Package struct {
	Role     string `json:"role"`
	Measured bool   `json:"measured"`
	// Host names the Debian release on which the package is used; "": on all.
	// Emulators differ, since they are linked with the host's libraries.
	Host    string `json:"host,omitempty"`
	Suite   string `json:"suite"`
	Meta    string `json:"meta,omitempty"` // package whose dependency names this one
	Name    string `json:"package"`
	Version string `json:"package_version"`
	SHA256  string `json:"sha256"`
}

// String gives the name and version.
func (p Package) String() string { return p.Name + " " + p.Version }

// want is a package that the platform needs, before it is resolved.
type want struct {
	role, host, suite, name string
	meta                    bool
}

// wanted lists what the lock pins. Debian 12 gets QEMU 10 from its backports,
// because its own QEMU 7.2 corrupts the memory of Linux 6.12 under TCG; Debian
// 13 has QEMU 10. What is measured is the same on every host.
var wanted = []want{
	{RoleKernel, "", "bookworm-backports", "linux-image-cloud-amd64", true},
	{RoleFirmware, "", "bookworm", "ovmf", false},
	// Older suites' images have no table for the kernel's hashes.
	{RoleTEEFirmware, "", "forky", "ovmf-amdsev", false},
	{RoleTEEFirmware, "", "forky", "ovmf-inteltdx", false},
	{RoleEmulator, "bookworm", "bookworm-backports", "qemu-system-x86", false},
	{RoleEmulator, "bookworm", "bookworm-backports", "qemu-system-common", false},
	{RoleEmulator, "bookworm", "bookworm-backports", "qemu-system-data", false},
	{RoleEmulator, "bookworm", "bookworm-backports", "seabios", false},
	{RoleEmulator, "trixie", "trixie", "qemu-system-x86", false},
	{RoleEmulator, "trixie", "trixie", "qemu-system-common", false},
	{RoleEmulator, "trixie", "trixie", "qemu-system-data", false},
	{RoleEmulator, "trixie", "trixie", "seabios", false},
}

// ParseLock decodes a lock file strictly.
func ParseLock(b []byte) (*Lock, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	l := new(Lock)
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", LockName, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decoding %s: data after the document", LockName)
	}
	if l.Version != LockVersion {
		return nil, fmt.Errorf("%s: version %d is not supported, only %d", LockName, l.Version, LockVersion)
	}
	for i, p := range l.Packages {
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("%s: packages[%d]: %w", LockName, i, err)
		}
	}
	return l, nil
}

func (p Package) validate() error {
	// The fields end up in file names and in apt's arguments.
	for _, f := range []struct{ name, value string }{{"suite", p.Suite}, {"package", p.Name}, {"package_version", p.Version}} {
		if !plain(f.value) {
			return fmt.Errorf("%s: %q is not a plain word", f.name, f.value)
		}
	}
	if b, err := hex.DecodeString(p.SHA256); err != nil || len(b) != 32 || strings.ToLower(p.SHA256) != p.SHA256 {
		return errors.New("sha256: not 64 lower-case hex digits")
	}
	if !slices.Contains([]string{RoleKernel, RoleFirmware, RoleTEEFirmware, RoleEmulator}, p.Role) {
		return fmt.Errorf("role: %q is not known", p.Role)
	}
	if p.Measured != (p.Role != RoleEmulator) {
		return fmt.Errorf("measured: wrong for role %s", p.Role)
	}
	return nil
}

// plain reports whether s consists of what Debian allows in names and versions.
func plain(s string) bool {
	if s == "" || len(s) > 200 || s[0] == '-' || s[0] == '.' {
		return false
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("+-.~:_", c):
		default:
			return false
		}
	}
	return true
}

// Encode gives the file's text.
func (l *Lock) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", LockName, err)
	}
	return append(b, '\n'), nil
}

// ForHost gives the packages that a Debian release needs.
func (l *Lock) ForHost(codename string) ([]Package, error) {
	var out []Package
	emulator := false
	for _, p := range l.Packages {
		if p.Host == "" || p.Host == codename {
			out = append(out, p)
			emulator = emulator || p.Role == RoleEmulator
		}
	}
	if !emulator {
		return nil, fmt.Errorf("%s pins no QEMU for Debian release %q: Coffer is built and tested on bookworm (12) and trixie (13)", LockName, codename)
	}
	return out, nil
}

// Change is a difference between two locks.
type Change struct{ Old, New Package }

// Changes lists what differs, by role, host and the name that was asked for.
func (l *Lock) Changes(n *Lock) []Change {
	var out []Change
	key := func(p Package) string {
		name := p.Name
		if p.Meta != "" {
			name = p.Meta
		}
		return p.Role + "/" + p.Host + "/" + name
	}
	old := map[string]Package{}
	for _, p := range l.Packages {
		old[key(p)] = p
	}
	for _, p := range n.Packages {
		if o := old[key(p)]; o != p {
			out = append(out, Change{Old: o, New: p})
		}
	}
	return out
}
