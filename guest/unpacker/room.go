package unpacker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// room is where one image's layers are made: a staging directory, and a writer shut
// in it, which makes one layer after the other, each in a folder of its own.
type room struct {
	dir    string
	writer *worker
	layers int // made so far
}

func (s *Service) newRoom() (_ *room, err error) {
	r := &room{dir: s.inStore("staging", s.number())}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, s.explain(err)
	}
	defer func() {
		if err != nil {
			r.end()
		}
	}()
	if err := os.Chmod(r.dir, 0o755); err != nil { // whatever the umask
		return nil, fmt.Errorf("image store: %w", err)
	}
	r.writer, err = s.start(WriterName, r.dir)
	return r, err
}

// layer has the writer make the next layer's folder from the records that are
// written to the result.
func (r *room) layer() (dir string, records *os.File, err error) {
	far, records, err := recordPipe()
	if err != nil {
		return "", nil, err
	}
	defer far.Close()
	name := strconv.Itoa(r.layers)
	r.layers++
	_ = r.writer.control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := send(r.writer.control, &writeJob{Dir: name}, far); err != nil {
		_ = records.Close()
		return "", nil, r.writer.died(err)
	}
	return filepath.Join(r.dir, name), records, nil
}

// end ends the writer and removes what is left of its work: layers that are done have
// been moved away.
func (r *room) end() {
	if r.writer != nil {
		r.writer.end()
	}
	_ = os.RemoveAll(r.dir)
}

// takeRoom gives the one that is ready, or a new one.
func (s *Service) takeRoom() (*room, error) {
	await(s.warming().room)
	s.mu.Lock()
	r := s.ready
	s.ready = nil
	s.mu.Unlock()
	if r != nil {
		select {
		case <-r.writer.proc.Done():
			r.end()
		default:
			return r, nil
		}
	}
	return s.newRoom()
}

// prepareRoom makes a room ready ahead of its image, if none is. An error shows
// again when a layer asks for one itself.
func (s *Service) prepareRoom() error {
	s.mu.Lock()
	have := s.ready != nil
	s.mu.Unlock()
	if have {
		return nil
	}
	r, err := s.newRoom()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.ready == nil {
		s.ready, r = r, nil
	}
	s.mu.Unlock()
	if r != nil {
		r.end()
	}
	return nil
}

// dropRoom ends a room that nobody took.
func (s *Service) dropRoom() {
	s.mu.Lock()
	r := s.ready
	s.ready = nil
	s.mu.Unlock()
	if r != nil {
		r.end()
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
