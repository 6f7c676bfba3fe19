package unpacker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/proc"
)

// Process is a started parser or writer.
type Process interface {
	Done() <-chan struct{}
	Kill()
	ExitCode() int // or 128 + signal; after Done
}

// Starter starts a parser or writer (name) with files as descriptors 3, 4, ...
// root is the directory it must be shut in.
type Starter func(name, root string, files []*os.File) (Process, error)

// ParserUID is the parser's user and group: nobody else's, since no pod and no
// image can name an id of 2^31 or more. Workloads' services in the guest know the
// parser by it.
const ParserUID = 1<<31 + 64001

// writerCaps are all a writer has: what making other people's files needs.
var writerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"}

// WithSupervisor starts the processes by guest/proc, confined: the parser without
// privileges and with a memory limit (bytes, for all parsers together), the
// writer with six capabilities and without network. The writer has no memory
// limit: a tmpfs's pages count for who writes them.
func WithSupervisor(s *proc.Supervisor, parserMemory int64) Starter {
	return func(name, root string, files []*os.File) (Process, error) {
		spec := &proc.Spec{Name: name, Root: root, Files: files, Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, NoDump: true}
		if name == WriterName {
			spec.Capabilities = writerCaps
			spec.Namespaces |= unix.CLONE_NEWNET
		} else {
			spec.UID, spec.GID = ParserUID, ParserUID
			spec.MemoryLimit, spec.Pids = parserMemory, 256
		}
		c, err := s.Start(spec)
		if err != nil {
			return nil, err
		}
		return child{c}, nil
	}
}

type child struct{ *proc.Child }

// Kill ends the process; one that has ended is fine.
func (c child) Kill() { _ = c.Signal(unix.SIGKILL) }

// worker is a process and its control socket.
type worker struct {
	name    string
	proc    Process
	control *net.UnixConn
}

func (s *Service) start(name, root string, files ...*os.File) (*worker, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p, err := s.opt.Start(name, root, append([]*os.File{theirs}, files...))
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	return &worker{name: name, proc: p, control: ours}, nil
}

// end kills the process and waits for it, so that nothing of it writes any more.
func (w *worker) end() {
	_ = w.control.Close()
	w.proc.Kill()
	<-w.proc.Done()
}

// leave lets a parser without work end by itself.
func (w *worker) leave() {
	_ = w.control.Close()
	select {
	case <-w.proc.Done():
	case <-time.After(time.Second):
		w.end()
	}
}

// await reads replies until the last one. The context's end kills the process.
func (w *worker) await(ctx context.Context, progress func(int64)) (*reply, error) {
	stop := context.AfterFunc(ctx, w.end)
	defer stop()
	for {
		var r reply
		files, err := receive(w.control, &r)
		closeAll(files)
		if err != nil {
			if cerr := context.Cause(ctx); cerr != nil {
				return nil, cerr
			}
			return nil, w.died(err)
		}
		switch {
		case r.Error != "":
			return &r, &failed{&r}
		case r.Done:
			return &r, nil
		case progress != nil:
			progress(r.Progress)
		}
	}
}

// died explains a control socket that broke.
func (w *worker) died(err error) error {
	select {
	case <-w.proc.Done():
	case <-time.After(2 * time.Second):
		w.end()
		return fmt.Errorf("%s spoke no sense: %w", w.name, err)
	}
	code := w.proc.ExitCode()
	switch {
	case code == 128+int(unix.SIGKILL):
		return mark(fmt.Errorf("%s was killed, probably for its memory: the image needs more than the guest has, or more than a parser may use", w.name), errKilled)
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("%s ended unexpectedly with code %d", w.name, code)
	}
	return fmt.Errorf("%s ended unexpectedly with code %d: %w", w.name, code, err)
}

// failed is what a process said went wrong.
type failed struct{ r *reply }

func (f *failed) Error() string { return f.r.Error }

// Unwrap gives the denial, if it was one.
func (f *failed) Unwrap() error {
	if f.r.Denial == nil {
		return nil
	}
	return f.r.Denial
}
