package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// killTimeout is how long a killed process may take to go: QEMU must unmap
	// its guest's memory.
	killTimeout = 3 * time.Second
	// parentGrace is how long a parent that died together with its child may
	// take to be seen dead.
	parentGrace = time.Second
)

// Watcher is the launcher's side of a supervisor process.
type Watcher struct {
	dir string
	exe []string

	mu    sync.Mutex
	rec   record
	pipe  io.WriteCloser
	cmd   *exec.Cmd
	ended bool
}

// Watch starts a supervisor for the run directory dir, which parent made. files
// names what the launcher will make in it. exe is the command line that ends up
// in Main.
func Watch(dir string, parent int, files []string, exe ...string) (*Watcher, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	owner, err := Identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	p, err := Identify(parent)
	if err != nil {
		p = Proc{} // already gone
	}
	w := &Watcher{dir: dir, exe: exe, rec: record{
		Boot: bootID(), Owner: owner, Parent: p, Procs: map[string]Proc{}, Files: files,
	}}
	if err := w.rec.write(dir); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.start(); err != nil {
		_ = w.rec.clean(dir)
		return nil, err
	}
	return w, nil
}

// start starts the supervisor; w.mu is held.
func (w *Watcher) start() error {
	cmd := exec.Command(w.exe[0], w.exe[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // and no death signal
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	w.cmd, w.pipe = cmd, pipe
	if err := w.tell(); err != nil {
		return err
	}
	go func() {
		started := time.Now()
		_ = cmd.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		// Killed while the sandbox lives: start another, unless it cannot live.
		if !w.ended && time.Since(started) > time.Second {
			_ = w.start()
		}
	}()
	return nil
}

// tell sends the whole record: one JSON line.
func (w *Watcher) tell() error {
	b, err := json.Marshal(struct {
		Dir string `json:"dir"`
		*record
	}{w.dir, &w.rec})
	if err != nil {
		return err
	}
	if _, err := w.pipe.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("telling the supervisor: %w", err)
	}
	return nil
}

// Add records a process that this one has started.
func (w *Watcher) Add(name string, pid int) error {
	p, err := Identify(pid)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Procs[name] = p
	if err := w.rec.write(w.dir); err != nil {
		return err
	}
	return w.tell()
}

// Close cleans up and dismisses the supervisor. The processes must have been
// reaped by the caller; any that is left is killed.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil
	}
	w.ended = true
	err := errors.Join(w.rec.killAll(), w.rec.clean(w.dir))
	_, werr := io.WriteString(w.pipe, "{\"done\":true}\n")
	if werr != nil && !errors.Is(werr, syscall.EPIPE) {
		err = errors.Join(err, werr)
	}
	_ = w.pipe.Close()
	return err
}

// Main is the supervisor: it reads records from its launcher until the pipe
// ends, then cleans up what the launcher has not.
func Main(pipe io.Reader) error {
	// It must outlive whatever ends the launcher politely.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	var last struct {
		record
		Dir  string `json:"dir"`
		Done bool   `json:"done"`
	}
	sc := bufio.NewScanner(pipe)
	sc.Buffer(nil, maxRecord)
	for sc.Scan() {
		if err := json.Unmarshal(sc.Bytes(), &last); err != nil {
			return fmt.Errorf("supervising: %w", err)
		}
	}
	var err error
	switch {
	case last.Dir == "":
		return nil
	case !last.Done:
		err = errors.Join(last.killAll(), last.clean(last.Dir))
	}
	// Whoever killed the launcher may have killed who started it: then the
	// directory is nobody's. The launcher itself need not wait for this.
	return errors.Join(err, last.cleanDir(last.Dir, parentGrace))
}
