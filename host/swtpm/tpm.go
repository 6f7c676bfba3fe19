package swtpm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/host/supervise"
)

// manufactureTimeout is generous: 0.1 s is usual.
const manufactureTimeout = 20 * time.Second

// TPM is a manufactured TPM that no VM has yet.
type TPM struct {
	path string
	dir  *os.File
	key  []byte // AES-256 key of the state; nowhere else
	uid  int
}

// New manufactures a TPM in dir, a directory that exists and is empty. The
// program at path runs as uid.
func New(ctx context.Context, path, dir string, uid int, ca *CA) (*TPM, error) {
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a TPM: %w", err)
	}
	if uid != 0 {
		if err := os.Chown(dir, uid, uid); err != nil {
			return nil, fmt.Errorf("making a TPM: %w", err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("making a TPM: %w", err)
	}
	t := &TPM{path: path, dir: d, key: make([]byte, 32), uid: uid}
	_, _ = rand.Read(t.key)
	if err := t.make(ctx, ca); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("making a TPM: %w", err)
	}
	return t, nil
}

// Close releases the directory; Start does too.
func (t *TPM) Close() error { return t.dir.Close() }

func (t *TPM) make(ctx context.Context, ca *CA) error {
	ctx, cancel := context.WithTimeout(ctx, manufactureTimeout)
	defer cancel()
	ours, theirs, err := pair("tpm")
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd, out, err := t.start(theirs, "--fd", "%d", "--flags", "not-need-init,startup-clear", "--terminate")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
	err = manufacture(ours, ca)
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	_ = ours.Close() // by --terminate it ends
	kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	werr := cmd.Wait()
	kill.Stop()
	switch {
	case err != nil:
		return fmt.Errorf("%w: swtpm said: %q", err, out.Text())
	case werr != nil:
		return fmt.Errorf("swtpm: %w: it said: %q", werr, out.Text())
	}
	return nil
}

// Start runs the TPM for a VM. control is QEMU's end of the control channel.
// The caller waits for the process; output gives what it said at its end.
func (t *TPM) Start() (cmd *exec.Cmd, control *os.File, output *supervise.Output, err error) {
	defer t.dir.Close()
	a, b, err := pair("tpm-control")
	if err != nil {
		return nil, nil, nil, err
	}
	cmd, out, err := t.start(b, "--ctrl", "type=unixio,clientfd=%d", "--terminate")
	if err != nil {
		_ = a.Close()
		return nil, nil, nil, err
	}
	return cmd, a, out, nil
}

// start runs swtpm on the state with fd as its connection, whose number takes
// the place of %d. It closes fd.
func (t *TPM) start(fd *os.File, args ...string) (*exec.Cmd, *supervise.Output, error) {
	defer fd.Close()
	keyR, keyW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer keyR.Close()
	_, err = keyW.Write(t.key) // fits in the pipe
	_ = keyW.Close()
	if err != nil {
		return nil, nil, err
	}
	out, w, err := supervise.NewOutput()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	files := []*os.File{fd, t.dir, keyR}
	all := []string{
		"socket", "--tpm2",
		"--tpmstate", fmt.Sprintf("dir=/proc/self/fd/%d,mode=0600", supervise.FD(1)),
		"--key", fmt.Sprintf("fd=%d,format=binary,mode=aes-256-cbc", supervise.FD(2)),
	}
	for _, s := range args {
		all = append(all, strings.ReplaceAll(s, "%d", fmt.Sprint(supervise.FD(0))))
	}
	cmd, err := supervise.Start(&supervise.Command{Path: t.path, Args: all, Files: files, UID: t.uid, Output: w})
	if err != nil {
		out.Close()
		return nil, nil, err
	}
	return cmd, out, nil
}

func pair(name string) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// Wipe overwrites and removes a TPM's state. The state is encrypted under a key
// that is gone; this leaves not even that.
func Wipe(dir string) error {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wiping TPM state: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("wiping TPM state: %w", err)
	}
	defer root.Close()
	for _, e := range ents {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > 1<<20 {
			continue
		}
		if f, err := root.OpenFile(e.Name(), os.O_WRONLY|unix.O_NOFOLLOW, 0); err == nil {
			_, _ = f.Write(make([]byte, fi.Size()))
			_ = f.Close()
		}
	}
	return os.RemoveAll(dir)
}
