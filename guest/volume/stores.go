package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// Stores opens a pod's volumes where the guest has no disks and no device mapper: each
// is in memory, and its content is kept, encrypted and authenticated, in a file that
// the host gives. It is read when the volume is opened, and written when the pod ends:
// a pod that is killed leaves what it found.
type Stores struct {
	opt   Options
	files []*os.File

	mu   sync.Mutex
	open map[string]*stored // by volume
}

// stored is an open volume.
type stored struct {
	file     *os.File
	keys     *keys
	next     *place // of the next snapshot
	sequence uint64 // of the last one
	dir      string
}

// NewStores makes Stores of these files.
func NewStores(opt Options, files []*os.File) *Stores {
	return &Stores{opt: opt, files: files, open: map[string]*stored{}}
}

// Open mounts the volume at its path and reports whether it did so just now.
func (s *Stores) Open(ctx context.Context, v *podpolicy.Volume) (bool, error) {
	if s.isOpen(v) {
		return false, nil
	}
	if v.Block {
		return false, refuse(BlockUnsupported, v, "a process, which has no devices", "a TEE with a VM, or volumeMode Filesystem")
	}
	began := time.Now()
	if !v.Kept() || len(s.files) == 0 {
		return false, refuse(DiskMissing, v, "none", "a file that keeps the volume (a volume that ends with the pod is in memory here)")
	}
	secret, err := s.opt.secret(ctx, v) // which may take a while: nobody waits for it
	if err != nil {
		return false, err
	}
	defer clear(secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[v.Name] != nil {
		return false, nil
	}
	var free []*os.File
	for _, f := range s.files {
		if !s.used(f) {
			free = append(free, f)
		}
	}
	if len(free) == 0 {
		return false, refuse(DiskMissing, v, "none that is free", "a file that keeps the volume")
	}
	vol, fresh, err := choose(v, free, secret)
	if err != nil {
		return false, err
	}
	s.open[v.Name] = vol
	s.opt.Log.Info("volume opened", "volume", v.Name, "new", fresh, "duration", time.Since(began))
	return true, nil
}

// Device refuses: there are no devices.
func (s *Stores) Device(v *podpolicy.Volume) (uint64, error) {
	return 0, refuse(BlockUnsupported, v, "a process, which has no devices", "a TEE with a VM, or volumeMode Filesystem")
}

func (s *Stores) isOpen(v *podpolicy.Volume) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[v.Name] != nil
}

func (s *Stores) used(f *os.File) bool {
	for _, v := range s.open {
		if v.file == f {
			return true
		}
	}
	return false
}

// choose opens the file that has the volume, else the first that may become it.
func choose(v *podpolicy.Volume, files []*os.File, secret []byte) (*stored, bool, error) {
	var why error // of the first file that is not the one
	var empty *os.File
	for _, f := range files {
		h, k, size, err := unlock(v, f, secret)
		switch {
		case h != nil && h.disk != size: // where the places are depends on it
			k.clear()
			err = errKey
		case h != nil && h.sectors != 0: // on a disk, of a machine
			k.clear()
			err = errForeign
		case h != nil:
			vol, err := restore(v, f, k, h)
			return vol, false, err
		case err == nil && empty == nil:
			empty = f
		}
		if err != nil && why == nil {
			why = err
		}
	}
	if empty == nil {
		return nil, false, refusal(v, why)
	}
	vol, err := found(v, empty, secret)
	return vol, true, err
}

// restore mounts the volume's memory and fills it with the latest snapshot.
func restore(v *podpolicy.Volume, f *os.File, k *keys, h *header) (*stored, error) {
	from, other, at, err := latest(places(f, k, h.disk))
	if err != nil {
		k.clear()
		return nil, damaged(v, err)
	}
	s := &stored{file: f, keys: k, next: other, sequence: at.sequence, dir: v.Path()}
	if err := s.mount(); err != nil {
		k.clear()
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if err := from.load(at, func(r io.Reader) error { return unpack(r, s.dir) }); err != nil {
		k.clear()
		return nil, errors.Join(damaged(v, err), unix.Unmount(s.dir, 0))
	}
	return s, nil
}

// found makes a volume of an empty file. Its first snapshot is before its header: a
// volume without a snapshot has lost it.
func found(v *podpolicy.Volume, f *os.File, secret []byte) (*stored, error) {
	_, size, err := readHeader(f, v.SizeLimit)
	if err != nil {
		return nil, refusal(v, err)
	}
	h := &header{disk: size}
	_, _ = rand.Read(h.salt[:]) // never fails
	k, err := deriveKeys(secret, h.salt, v.Name)
	if err != nil {
		return nil, err
	}
	ps := places(f, k, size)
	s := &stored{file: f, keys: k, next: ps[0], dir: v.Path()}
	if err = s.mount(); err == nil {
		err = s.save()
	}
	if err == nil {
		err = seal(f, h, k)
	}
	if err != nil {
		k.clear()
		_ = unix.Unmount(s.dir, 0) // if it was mounted
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	s.next = ps[1]
	return s, nil
}

// mount mounts the memory that holds the volume, and no more than a snapshot has room for.
func (s *stored) mount() error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	const share = 8 // of the room, for what an archive has beside the files' content
	room := s.next.room()
	data := fmt.Sprintf("mode=0777,size=%d", room-room/share)
	return unix.Mount("tmpfs", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data)
}

// save writes the next snapshot.
func (s *stored) save() error {
	if err := s.next.save(s.sequence+1, func(w io.Writer) error { return pack(w, s.dir) }); err != nil {
		return err
	}
	s.sequence++
	return nil
}

// Close saves all volumes.
func (s *Stores) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, v := range s.open {
		if err := v.save(); err != nil {
			s.opt.Log.Error("closing a volume", "volume", name, "err", err)
			errs = append(errs, fmt.Errorf("volume %s: %w", name, err))
			continue // to be tried again
		}
		v.keys.clear()
		delete(s.open, name)
	}
	return errors.Join(errs...)
}
