package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cofferproject/coffer/host/supervise"
)

// shimKillTime bounds the wait for a killed shim's end: containerd gives delete five
// seconds, and the TEE's processes may take three of them.
const shimKillTime = 1500 * time.Millisecond

// delete removes what a shim that crashed has left, and ends one that containerd has given
// up. Standard output carries the answer and nothing else.
func (a *arguments) delete(stdout io.Writer) error {
	root := DefaultRunDir
	if b, err := readBounded(filepath.Join(a.bundle, runDirFile), 4096); err == nil {
		root = string(b)
	}
	if err := a.killShim(root); err != nil {
		return fmt.Errorf("the shim of sandbox %s still runs: %w", a.id, err)
	}
	dir := filepath.Join(root, a.id)
	if _, err := os.Lstat(dir); err == nil {
		// The supervisor of the TEE does the same; whoever comes first.
		if _, err := supervise.Sweep(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		_ = os.Remove(dir) // of a TEE that had ended before its shim, only the empty folder is left
	}
	_ = os.Remove(a.socketOf(a.id))
	b, err := proto.Marshal(&api.DeleteResponse{ExitStatus: killed, ExitedAt: timestamppb.Now()})
	if err != nil {
		return err
	}
	_, err = stdout.Write(b)
	return err
}

// killShim ends this pod's shim if it runs: containerd has one deleted that did not answer
// in time, too, and its TEE would run on with nobody to reach it. With the shim its TEE
// ends. A container's bundle names no shim: what containerd gives up there is one task.
func (a *arguments) killShim(root string) error {
	var errs []error
	if p, err := supervise.ReadIdentity(filepath.Join(a.bundle, identityFile)); err == nil {
		errs = append(errs, p.Kill(shimKillTime))
	}
	// Who launched the TEE; of a shim of before identityFile nothing else tells. The folder
	// may be of a pod that has the same id in another namespace.
	if p, err := supervise.Owner(root, a.id); err == nil && a.isShim(p.PID) {
		errs = append(errs, p.Kill(shimKillTime))
	}
	return errors.Join(errs...)
}

// isShim reports whether a process was started as this pod's shim, by what makes its
// socket's name.
func (a *arguments) isShim(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	_, args, _ := bytes.Cut(b, []byte{0})
	return bytes.HasPrefix(args, []byte("-namespace\x00"+a.namespace+"\x00-id\x00"+a.id+"\x00-address\x00"+a.address+"\x00"))
}
