// Package volume opens the pod's volumes on disks that the host gives: each is
// encrypted and authenticated block by block (dm-crypt on dm-integrity), with a key
// that is random or the owner's, and holds an ext4 file system or, for a block volume,
// what its containers write to it. SPEC.md is the format.
//
// Invariants: what cannot be authenticated is not mounted; a disk is formatted only
// where the policy says that it may be new, and its first blocks are empty, or where
// nothing of it is kept; a disk's key is in this process no longer than the kernel
// needs to take it. A store's is there as long as the volume, which it encrypts here.
//
// Not protected: a host can put back a whole disk, or single blocks, as they once were.
//
// Trust zone: guest. Disks are the host's, hostile.
package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// component names this package in refusals.
const component = "guest-volume"

// Reasons of refusals.
const (
	DiskMissing   denial.Reason = "volume-disk-missing"   // the host gave no disk for the volume
	DiskTooSmall  denial.Reason = "volume-disk-too-small" // nothing fits on it, or less than the policy says
	DiskEmpty     denial.Reason = "volume-disk-empty"     // a volume that must exist is on no disk
	DiskForeign   denial.Reason = "volume-disk-foreign"   // something else is there
	KeyMismatch   denial.Reason = "volume-key-mismatch"   // another key, name or size, or a changed header
	Damaged       denial.Reason = "volume-damaged"        // it cannot be opened or read
	KindMismatch  denial.Reason = "volume-kind-mismatch"  // a file system where a device belongs, or the reverse
	KeyUnsuitable denial.Reason = "volume-key-unsuitable" // the resource is no key
)

// Options are what a Manager works with.
type Options struct {
	// Key gives the resource that holds a volume's key. What it gives is cleared.
	Key func(ctx context.Context, uri string) ([]byte, error)
	// Sealing gives the TEE's sealing key by a policy (podpolicy.SealingMREnclave, ...),
	// 32 bytes; nil: it has none. What it gives is cleared.
	Sealing func(policy string) ([]byte, error)
	Log     *slog.Logger
}

// Manager opens a pod's volumes on disks, each once.
type Manager struct {
	opt Options

	mu   sync.Mutex
	open map[string]*mounted // by volume

	closing atomic.Bool
}

// mounted is an open volume.
type mounted struct {
	disk string // "/dev/vdb"
	dm   *mapped
	dirs []string // mount points, the first mounted first
	kept bool     // something of it outlives the guest
	grow []byte   // the header that says how large the disk has become; nil: it is as it was
}

// BlockUnsupported refuses a block volume where the guest has no device mapper.
const BlockUnsupported denial.Reason = "volume-block-unsupported"

// NewManager makes a Manager of no volumes.
func NewManager(opt Options) *Manager {
	return &Manager{opt: opt, open: map[string]*mounted{}}
}

// stateDir holds the file systems' own mount points.
const stateDir = "/run/coffer/volumes"

// dataDir is the directory of a file system that is the volume: what belongs to the
// file system itself (lost+found) stays beside it.
const dataDir = "data"

// Open mounts the volume at its path, or opens it as a device, and reports whether it did
// so just now.
func (m *Manager) Open(ctx context.Context, v *podpolicy.Volume) (bool, error) {
	if m.isOpen(v) {
		return false, nil
	}
	began := time.Now()
	if _, err := m.disksOf(v); err != nil {
		return false, err
	}
	var secret []byte
	if v.Kept() {
		var err error
		if secret, err = m.opt.secret(ctx, v); err != nil { // which may take a while: nobody waits for it
			return false, err
		}
		defer clear(secret)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open[v.Name] != nil {
		return false, nil
	}
	vol, fresh, err := m.activate(v, secret)
	if err != nil {
		return false, err
	}
	grown := vol.grow != nil
	if !v.Block {
		if err := vol.mount(v); err != nil {
			return false, errors.Join(damaged(v, err), vol.close())
		}
		if !fresh && v.Kept() {
			grown = vol.growFilesystem(v, m.opt.Log)
		}
	}
	if vol.grow != nil {
		if err := vol.seal(); err != nil {
			return false, errors.Join(damaged(v, err), vol.close())
		}
	}
	vol.kept = v.Kept()
	m.open[v.Name] = vol
	m.opt.Log.Info("volume opened", "volume", v.Name, "new", fresh, "grown", grown, "duration", time.Since(began))
	return true, nil
}

// Close unmounts all volumes that outlive the guest, so that everything is on the disks.
func (m *Manager) Close() error {
	m.closing.Store(true) // who wipes a new volume holds the lock for as long as that takes
	unix.Sync()
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for name, v := range m.open {
		if !v.kept { // nobody will ever read it again
			continue
		}
		if err := v.close(); err != nil {
			m.opt.Log.Error("closing a volume", "volume", name, "err", err)
			errs = append(errs, fmt.Errorf("volume %s: %w", name, err))
			continue // to be tried again
		}
		delete(m.open, name)
	}
	return errors.Join(errs...)
}

// Device gives the device number of a block volume that is open.
func (m *Manager) Device(v *podpolicy.Volume) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	vol := m.open[v.Name]
	if vol == nil || !v.Block {
		return 0, fmt.Errorf("volume %s: not open as a device", v.Name)
	}
	return vol.dm.crypt.Number, nil
}

func (m *Manager) isOpen(v *podpolicy.Volume) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[v.Name] != nil
}

// disksOf gives the disks that v can be on.
func (m *Manager) disksOf(v *podpolicy.Volume) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(v)
}

// activate makes the volume's devices, of a disk that has it or may have it from now on.
func (m *Manager) activate(v *podpolicy.Volume, secret []byte) (*mounted, bool, error) {
	disks, err := m.find(v)
	if err != nil {
		return nil, false, err
	}
	if !v.Kept() {
		return m.scratch(v, disks[0])
	}
	return m.kept(v, disks, secret)
}

// secret gives what the keys of a volume are made of: the trustee's, the TEE's, or both,
// one behind the other.
func (o *Options) secret(ctx context.Context, v *podpolicy.Volume) ([]byte, error) {
	var sealing []byte
	if v.Sealing != "" {
		if o.Sealing == nil {
			return nil, refuse(KeyUnsuitable, v, "a TEE without a sealing key", "one that has it: sgx")
		}
		var err error
		if sealing, err = o.Sealing(v.Sealing); err != nil {
			return nil, fmt.Errorf("volume %s: the TEE's sealing key: %w", v.Name, err)
		}
		if len(sealing) != sealingKeySize {
			clear(sealing)
			return nil, fmt.Errorf("volume %s: the TEE's sealing key has %d bytes", v.Name, len(sealing))
		}
		if v.Key == "" {
			return sealing, nil
		}
		defer clear(sealing)
	}
	secret, err := o.Key(ctx, v.Key)
	if err != nil {
		if d, ok := denial.FromMessage(err.Error()); ok {
			return nil, d
		}
		return nil, fmt.Errorf("volume %s: asking for its key: %w", v.Name, err)
	}
	if len(secret) < MinKey || len(secret) > MaxKey {
		clear(secret)
		return nil, refuse(KeyUnsuitable, v, fmt.Sprintf("%d bytes", len(secret)), fmt.Sprintf("%d to %d bytes", MinKey, MaxKey))
	}
	if sealing == nil {
		return secret, nil
	}
	defer clear(secret)
	return append(append(make([]byte, 0, len(sealing)+len(secret)), sealing...), secret...), nil
}

// sealingKeySize is the size of a TEE's sealing key, in bytes.
const sealingKeySize = 32

// scratch makes a volume that ends with the guest: its key is in no other place.
func (m *Manager) scratch(v *podpolicy.Volume, disk string) (*mounted, bool, error) {
	secret := make([]byte, MinKey)
	_, _ = rand.Read(secret) // never fails
	defer clear(secret)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, false, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	defer f.Close()
	if _, _, err := readHeader(f, v.SizeLimit); err != nil {
		return nil, false, refusal(v, err)
	}
	vol, _, err := m.fresh(v, disk, secret)
	return vol, true, err
}

// kept opens a volume that outlives the guest: the disk that has it, else the first
// that may become it.
func (m *Manager) kept(v *podpolicy.Volume, disks []string, secret []byte) (*mounted, bool, error) {
	var why error // of the first disk that is not the one
	empty := ""
	for _, disk := range disks {
		vol, err := m.openOn(v, disk, secret)
		switch {
		case vol != nil:
			return vol, false, nil
		case reasonOf(err) == Damaged || errors.Is(err, errKind) || errors.Is(err, errShrunk): // it is the one, and no new volume takes its place
			err = refusal(v, err)
			return nil, false, err
		case err == nil && empty == "":
			empty = disk
		case err != nil && why == nil:
			why = err
		}
	}
	if empty == "" {
		return nil, false, refusal(v, why)
	}
	vol, err := m.create(v, empty, secret)
	return vol, true, err
}

// openOn opens the volume if it is on this disk; nil without an error: the disk is
// empty, and may become the volume.
func (m *Manager) openOn(v *podpolicy.Volume, disk string, secret []byte) (*mounted, error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, k, size, err := unlock(v, f, secret)
	if h == nil {
		return nil, err
	}
	defer k.clear()
	if h.sectors == 0 { // a file of a process
		return nil, errForeign
	}
	if err := existing(f); err != nil {
		return nil, damaged(v, err)
	}
	dm, err := activate(deviceID(v), disk, k, h.sectors)
	if err != nil {
		return nil, damaged(v, err)
	}
	vol := &mounted{disk: disk, dm: dm}
	if size > h.disk {
		if err := vol.extend(v, f, h, k, size, m.closing.Load); err != nil {
			return nil, errors.Join(damaged(v, err), vol.close())
		}
	}
	return vol, nil
}

// unlock reads a disk's header and finds it to be the volume's, and the disk's size, which
// is at least what the header says; a nil header: the disk is empty, and may become the
// volume.
func unlock(v *podpolicy.Volume, f *os.File, secret []byte) (*header, *keys, uint64, error) {
	head, size, err := readHeader(f, v.SizeLimit)
	if err != nil {
		return nil, nil, 0, err
	}
	h, err := parseHeader(head)
	if errors.Is(err, errEmpty) && v.New {
		return nil, nil, size, nil
	}
	if err != nil {
		return nil, nil, 0, err
	}
	k, err := deriveKeys(secret, h.salt, v.Name)
	if err != nil {
		return nil, nil, 0, err
	}
	switch {
	case !h.verify(head, k):
		err = errKey
	case h.block != v.Block:
		err = errKind
	case size < h.disk:
		err = fmt.Errorf("%w: %d bytes, and before %d", errShrunk, size, h.disk)
	}
	if err != nil {
		k.clear()
		return nil, nil, 0, err
	}
	return h, k, size, nil
}

// create makes a volume on an empty disk that will be opened again.
func (m *Manager) create(v *podpolicy.Volume, disk string, secret []byte) (*mounted, error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	defer f.Close()
	_, size, err := readHeader(f, v.SizeLimit)
	if err != nil {
		return nil, refusal(v, err)
	}
	vol, h, err := m.fresh(v, disk, secret)
	if err != nil {
		return nil, err
	}
	h.disk = size
	k, err := deriveKeys(secret, h.salt, v.Name)
	if err == nil {
		defer k.clear()
		err = seal(f, h, k)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("volume %s: %w", v.Name, err), vol.close())
	}
	return vol, nil
}

// fresh formats a disk.
func (m *Manager) fresh(v *podpolicy.Volume, disk string, secret []byte) (*mounted, *header, error) {
	h := &header{block: v.Block}
	_, _ = rand.Read(h.salt[:]) // never fails
	k, err := deriveKeys(secret, h.salt, v.Name)
	if err != nil {
		return nil, nil, err
	}
	defer k.clear()
	fill := makeFilesystem
	if v.Block {
		fill = func(device string, size int64) error { return wipe(device, 0, size, m.closing.Load) }
	}
	dm, sectors, err := format(deviceID(v), disk, k, v.Block, fill)
	if err != nil {
		return nil, nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	h.sectors = sectors
	return &mounted{disk: disk, dm: dm}, h, nil
}

// deviceID begins the names of a volume's devices.
func deviceID(v *podpolicy.Volume) string { return "coffer-" + v.Name }

// find gives the disk that the host has given for v; for a volume with a key, where
// there is none by its name, the disks of which the host does not know whose they are.
func (m *Manager) find(v *podpolicy.Volume) ([]string, error) {
	serial := podpolicy.DiskSerial(v.Name)
	disks, err := bySerial("/sys/block", func(s string) bool { return s == serial })
	if err == nil && len(disks) == 0 && v.Kept() {
		disks, err = bySerial("/sys/block", func(s string) bool { return strings.HasPrefix(s, podpolicy.ClaimSerials) })
		disks = slices.DeleteFunc(disks, m.used)
	} else if len(disks) > 1 {
		return nil, refuse(DiskForeign, v, fmt.Sprintf("%d disks with serial number %s", len(disks), serial), "one")
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if len(disks) == 0 {
		return nil, refuse(DiskMissing, v, "none", "a disk with serial number "+serial)
	}
	return disks, nil
}

// used reports whether another volume is on the disk.
func (m *Manager) used(disk string) bool {
	for _, v := range m.open {
		if v.disk == disk {
			return true
		}
	}
	return false
}

// bySerial gives the disks with such a serial number, by their names in /dev.
func bySerial(sys string, ok func(serial string) bool) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(sys, "vd*", "serial"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		if ok(strings.TrimSpace(string(b))) {
			out = append(out, filepath.Join("/dev", filepath.Base(filepath.Dir(p))))
		}
	}
	return out, nil
}

// mount mounts the file system, and its data at the volume's path.
func (v *mounted) mount(p *podpolicy.Volume) error {
	fs := filepath.Join(stateDir, p.Name)
	if err := os.MkdirAll(fs, 0o700); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount(v.dm.crypt.Path, fs, "ext4", flags, "errors=remount-ro,noinit_itable"); err != nil {
		return fmt.Errorf("mounting its file system: %w", err)
	}
	v.dirs = append(v.dirs, fs)
	data := filepath.Join(fs, dataDir)
	if err := os.Mkdir(data, 0o777); err == nil {
		if err := os.Chmod(data, 0o777); err != nil { // whatever the umask is
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.MkdirAll(p.Path(), 0o755); err != nil {
		return err
	}
	if err := unix.Mount(data, p.Path(), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting its data: %w", err)
	}
	v.dirs = append(v.dirs, p.Path())
	return nil
}

// close unmounts the volume and ends its devices.
func (v *mounted) close() error {
	unix.Sync() // whatever happens next
	for len(v.dirs) > 0 {
		dir := v.dirs[len(v.dirs)-1]
		if err := patiently(func() error { return unix.Unmount(dir, 0) }); err != nil {
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
		v.dirs = v.dirs[:len(v.dirs)-1]
	}
	// Another mount namespace may have had the file system a moment longer.
	return patiently(v.dm.remove)
}

// patiently waits for who still uses something: the last processes of a pod that ends.
func patiently(f func() error) error {
	const tries, pause = 100, 20 * time.Millisecond
	var err error
	for range tries {
		if err = f(); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(pause)
	}
	return err
}

// dropCache has the next read of a disk come from the disk.
func dropCache(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("dropping cached blocks: %w", err)
	}
	return nil
}

// refusal gives the typed form of what is wrong with a disk.
func refusal(v *podpolicy.Volume, err error) error {
	for _, r := range []struct {
		err      error
		reason   denial.Reason
		expected string
	}{
		{errEmpty, DiskEmpty, "the volume that its key belongs to; the policy does not let a new one be made"},
		{errForeign, DiskForeign, "a volume, or an empty disk"},
		{errKind, KindMismatch, map[bool]string{false: "a volume with a file system", true: "a block volume"}[v.Block]},
		{errShrunk, DiskTooSmall, "the disk as it was"},
		{errKey, KeyMismatch, "the volume that its key belongs to"},
		{errSmall, DiskTooSmall, fmt.Sprintf("%d bytes", max(int64(minDisk), v.SizeLimit))},
	} {
		if errors.Is(err, r.err) {
			return refuse(r.reason, v, err.Error(), r.expected)
		}
	}
	if _, ok := denial.As(err); ok {
		return err
	}
	return fmt.Errorf("volume %s: %w", v.Name, err)
}

// damaged refuses what had the right header, and then was not what a guest had left.
func damaged(v *podpolicy.Volume, err error) error {
	return refuse(Damaged, v, err.Error(), "what the last guest has left there")
}

// reasonOf gives the reason of a refusal; "": it is none.
func reasonOf(err error) denial.Reason {
	if d, ok := denial.As(err); ok {
		return d.Reason
	}
	return ""
}

func refuse(reason denial.Reason, v *podpolicy.Volume, measured, expected string) error {
	return &denial.Denial{
		Reason: reason, Component: component, Claim: "volumes[" + v.Name + "]", Measured: measured, Expected: expected, Source: "pod policy",
	}
}
