package simhw

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/libos"
)

func bundleOf(t *testing.T) (string, *os.Root) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range libos.Folders {
		if err := os.MkdirAll(filepath.Join(dir, libos.RootFS, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, libos.RootFS, libos.Agent), []byte("agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return dir, root
}

// What would run unmeasured stops the measuring.
func TestAgentDigest(t *testing.T) {
	_, root := bundleOf(t)
	sum := sha256.Sum256([]byte("agent"))
	if got, err := agentDigest(root); err != nil || got != hex.EncodeToString(sum[:]) {
		t.Errorf("%s, %v", got, err)
	}
	for name, put := range map[string]func(dir string) error{
		"a file":             func(d string) error { return os.WriteFile(filepath.Join(d, "lib.so"), nil, 0o600) },
		"a file in a folder": func(d string) error { return os.WriteFile(filepath.Join(d, "etc", "ld.so.preload"), nil, 0o600) },
		"a folder":           func(d string) error { return os.Mkdir(filepath.Join(d, "lib"), 0o700) },
		"a link for a folder": func(d string) error {
			if err := os.Remove(filepath.Join(d, "etc")); err != nil {
				return err
			}
			return os.Symlink("/etc", filepath.Join(d, "etc"))
		},
		"a link for the agent": func(d string) error {
			if err := os.Remove(filepath.Join(d, libos.Agent)); err != nil {
				return err
			}
			return os.Symlink("/bin/true", filepath.Join(d, libos.Agent))
		},
		"no agent": func(d string) error { return os.Remove(filepath.Join(d, libos.Agent)) },
	} {
		dir, root := bundleOf(t)
		if err := put(filepath.Join(dir, libos.RootFS)); err != nil {
			t.Fatal(err)
		}
		if got, err := agentDigest(root); err == nil {
			t.Errorf("%s: measured as %s", name, got)
		}
	}
}

// A process that is no runtime is measured as none.
func TestReadProcessOfAnother(t *testing.T) {
	empty, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if in, err := readProcess(t.Context(), os.Getpid(), "", empty); err == nil || !strings.Contains(err.Error(), "arguments") {
		t.Errorf("%+v, %v", in, err)
	}
}

// The launcher's process becomes the runtime while it is looked at.
func TestRunningWaits(t *testing.T) {
	c, err := libos.ParseCommand(libos.DefaultCmdline(1))
	if err != nil {
		t.Fatal(err)
	}
	final := append([]string{"runsc"}, libos.RunArgs(c, "/s", "/b", "id")...)
	dir := t.TempDir()
	put := func(args []string) {
		t.Helper()
		content := ""
		if args != nil {
			content = strings.Join(args, "\x00") + "\x00"
		}
		tmp := filepath.Join(dir, "next")
		if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "cmdline")); err != nil {
			t.Fatal(err)
		}
	}
	put(append([]string{"runsc", libos.Start}, final[1:]...))
	got := make(chan error, 1)
	go func() {
		r, err := running(t.Context(), dir)
		if err == nil && r.Bundle != "/b" {
			err = errors.New(r.Bundle)
		}
		got <- err
	}()
	time.Sleep(20 * time.Millisecond)
	put(nil) // between two programs
	time.Sleep(20 * time.Millisecond)
	select {
	case err := <-got:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	put(final)
	if err := <-got; err != nil {
		t.Error(err)
	}
}
