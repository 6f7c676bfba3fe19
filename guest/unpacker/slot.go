package unpacker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// slot is the room for one layer: a staging directory, a writer shut in it, and
// our end of the pipe to the writer.
type slot struct {
	name    string
	dir     string
	writer  *worker
	records *os.File
}

func (s *Service) newSlot() (_ *slot, err error) {
	sl := &slot{name: s.number()}
	sl.dir = s.inStore("staging", sl.name)
	if err := os.Mkdir(sl.dir, 0o755); err != nil {
		return nil, s.explain(err)
	}
	defer func() {
		if err != nil {
			sl.end(true)
		}
	}()
	if err := os.Chmod(sl.dir, 0o755); err != nil { // whatever the umask
		return nil, fmt.Errorf("image store: %w", err)
	}
	var far *os.File
	if far, sl.records, err = recordPipe(); err != nil {
		return nil, err
	}
	defer far.Close()
	sl.writer, err = s.start(WriterName, sl.dir, far)
	return sl, err
}

// end lets the writer go. A slot without success leaves nothing behind.
func (sl *slot) end(failed bool) {
	if sl.records != nil {
		_ = sl.records.Close()
	}
	if sl.writer != nil {
		sl.writer.end()
	}
	if failed {
		_ = os.RemoveAll(sl.dir)
	}
}

// takeSlot gives the one that is ready, or a new one.
func (s *Service) takeSlot(ctx context.Context) (*slot, error) {
	if err := await(ctx, s.warms.slot); err != nil {
		return nil, err
	}
	s.mu.Lock()
	sl := s.ready
	s.ready = nil
	s.mu.Unlock()
	if sl != nil {
		select {
		case <-sl.writer.proc.Done():
			sl.end(true)
		default:
			return sl, nil
		}
	}
	return s.newSlot()
}

// prepareSlot makes a slot ready ahead of its layer, if none is. An error shows
// again when the layer asks for one itself.
func (s *Service) prepareSlot() error {
	s.mu.Lock()
	have := s.ready != nil
	s.mu.Unlock()
	if have {
		return nil
	}
	sl, err := s.newSlot()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.ready == nil {
		s.ready, sl = sl, nil
	}
	s.mu.Unlock()
	if sl != nil {
		sl.end(true)
	}
	return nil
}

// dropSlot ends a slot that nobody took.
func (s *Service) dropSlot() {
	s.mu.Lock()
	sl := s.ready
	s.ready = nil
	s.mu.Unlock()
	if sl != nil {
		sl.end(true)
	}
}

// explain adds the store's size to an error about space.
func (s *Service) explain(err error) error {
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("image store: %w", err)
	}
	var st unix.Statfs_t
	if unix.Statfs(s.inStore(), &st) != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return fmt.Errorf("image store of %d MiB has %d MiB free: %w; give the pod more memory", int64(st.Blocks)*st.Bsize>>20, int64(st.Bavail)*st.Bsize>>20, err)
}

// recordPipe makes a pipe large enough that the two halves run side by side. Its ends
// block: this process only hands them on, and would else be woken for each piece.
func recordPipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 1<<20) // only speed
	return os.NewFile(uintptr(p[0]), "records"), os.NewFile(uintptr(p[1]), "records"), nil
}
