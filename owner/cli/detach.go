package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// announceFD is the file descriptor on which a detached coffer run tells its
// parent the pod's id, by environment so that no user sees it among the flags.
const announceEnv = "COFFER_ANNOUNCE_FD"

// runDetached starts this very command again without a terminal and waits until
// its pod runs or it has failed.
func runDetached(cmd *cobra.Command) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	var args []string
	for _, a := range os.Args[1:] {
		if a != "-d" && a != "--detach" && a != "--detach=true" {
			args = append(args, a)
		}
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	er, ew, err := os.Pipe()
	if err != nil {
		return err
	}
	defer er.Close()
	child := exec.Command(self, args...)
	child.Env = append(os.Environ(), announceEnv+"=3")
	child.ExtraFiles = []*os.File{pw}
	child.Stderr = ew
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("starting in the background: %w", err)
	}
	_ = pw.Close()
	_ = ew.Close()
	// What it says until then is for the user; afterwards nobody listens, and
	// the run goes on without.
	go func() { _, _ = io.Copy(cmd.ErrOrStderr(), er) }()
	id, err := bufio.NewReader(pr).ReadString('\n')
	if err != nil {
		werr := child.Wait()
		var ee *exec.ExitError
		if errors.As(werr, &ee) {
			return &ExitError{Code: ee.ExitCode(), Silent: true}
		}
		return errors.New("the run in the background ended before its pod ran")
	}
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), map[string]string{"id": strings.TrimSpace(id)})
	}
	fmt.Fprint(cmd.OutOrStdout(), id)
	return nil
}

// announce tells the parent of a detached run the pod's id; in the foreground
// it does nothing.
func announce(id string) {
	if os.Getenv(announceEnv) != "3" {
		return
	}
	f := os.NewFile(3, "announce")
	if f == nil {
		return
	}
	_, _ = fmt.Fprintln(f, id)
	_ = f.Close()
	// The terminal is the parent's: from here on nobody reads our lines.
	if null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		_ = syscall.Dup2(int(null.Fd()), 1)
		_ = syscall.Dup2(int(null.Fd()), 2)
		_ = null.Close()
	}
}
