package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processSecret is what the victim pod is given (sealedVictim).
const processSecret = "for the victim alone"

// runProcess runs the victim in a process TEE until it has its secret.
func runProcess(t *testing.T) (p *pod, tr *tracker, home string) {
	t.Helper()
	home = shared.newHome(t)
	shared.startTrustee(t, home, "")
	file := sealedVictim(t, home, "--tee", "sgx-sim")
	p = shared.run(t, home, "--tee", "sgx-sim", file)
	tr = track(t, p.cmd.Process.Pid)
	p.waitOutput("app | secret sha256 ")
	return p, tr, home
}

// TestProcessKeepsPlaintextOutOfFiles looks into every file that a process of the
// sandbox has open, unlinked ones too, and into all that lies in the run's folders,
// for the secret. What is in memory alone (memfd) is this machine's RAM, which the
// simulation does not hide: docs/process-tee.md.
func TestProcessKeepsPlaintextOutOfFiles(t *testing.T) {
	t.Parallel()
	p, tr, home := runProcess(t)
	// An unlinked file that holds it, open here: the search must find what is there.
	planted, err := os.CreateTemp(t.TempDir(), "planted")
	if err != nil {
		t.Fatal(err)
	}
	defer planted.Close()
	if _, err := planted.WriteString(strings.Repeat("x", 1<<20-10) + processSecret); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(planted.Name()); err != nil {
		t.Fatal(err)
	}
	if hits, _ := openFilesWith(t, os.Getpid()); len(hits) == 0 {
		t.Fatal("the search does not find an unlinked file")
	}
	pids := tr.pids("")
	looked := 0
	for _, pid := range pids {
		if strings.HasPrefix(command(pid), "coffer-trustee") {
			continue // the owner's, not the host's
		}
		hits, n := openFilesWith(t, pid)
		looked += n
		for _, h := range hits {
			t.Errorf("%s (%d) has the secret in %s", command(pid), pid, h)
		}
	}
	if looked < 3 { // the agent, the console, the runtime's state at least
		t.Errorf("only %d open files of %d processes were there to look into", looked, len(pids))
	}
	err = filepath.WalkDir(filepath.Join(home, "run"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if holds(b) {
			t.Errorf("%s holds the secret", path)
		}
		looked++
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("looked into %d files of %d processes", looked, len(pids))
	p.stop()
	nothingLeft(t, tr, home)
}

// openFilesWith gives the regular files on a disk that a process has open and that
// hold the secret, and how many it has looked into.
func openFilesWith(t *testing.T, pid int) (hits []string, looked int) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0 // gone
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		target, err := os.Readlink(path)
		if err != nil || strings.HasPrefix(target, "/memfd:") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/") {
			continue
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Errorf("%s of %s: %v", target, command(pid), err)
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, 512<<20))
		_ = f.Close()
		if err != nil {
			t.Errorf("%s of %s: %v", target, command(pid), err)
		}
		looked++
		if holds(b) {
			hits = append(hits, target)
		}
	}
	return hits, looked
}

// holds looks for the secret as it is, in hex and in base64.
func holds(b []byte) bool {
	for _, s := range []string{processSecret, hex.EncodeToString([]byte(processSecret)), base64.StdEncoding.EncodeToString([]byte(processSecret))} {
		if bytes.Contains(b, []byte(s)) {
			return true
		}
	}
	return false
}

// TestProcessKilled kills each process of a sandbox, without warning: nothing of it
// is left, and coffer says what happened.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		victim string // as /proc has its command
		code   int    // of coffer; 0: it is the victim itself, or its end is not told
	}{
		{"coffer-runsc", 122}, {"runsc-sandbox", 122}, {"runsc-gofer", 0}, {"coffer-runsc coffer-net", 122}, {"coffer-simhw", 122}, {"coffer-node sandbox", 122}, {"coffer-node supervise", 0},
	} {
		t.Run(c.victim, func(t *testing.T) {
			t.Parallel()
			p, tr, home := runProcess(t)
			pids := tr.pids(c.victim)
			if len(pids) == 0 {
				t.Fatalf("no process %s among %v", c.victim, tr.left())
			}
			for _, pid := range pids {
				if command(pid) != c.victim && c.victim == "coffer-runsc" {
					continue // the network has the same program
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			if c.code == 0 {
				time.Sleep(500 * time.Millisecond)
				p.stop()
			} else if code := p.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			nothingLeft(t, tr, home)
		})
	}
}

// TestProcessesOfAContainer runs what a library OS has to do as a VM does: a shell by
// exec, with a terminal and without, files in a volume, the pod's own name.
func TestProcessesOfAContainer(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	shared.startTrustee(t, home, "")
	p := shared.run(t, home, "--tee", "sgx-sim", "--allow-exec", write(t, home, "pod.yaml", `apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  restartPolicy: Never
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: app
    image: docker.io/library/busybox
    command: [sh, -c, "hostname; echo written > /data/file; echo ready; while [ ! -e /data/go ]; do sleep 0.1; done; exit 7"]
    volumeMounts: [{name: data, mountPath: /data}]
  - name: other
    image: docker.io/library/busybox
    command: [sh, -c, "echo here; while [ ! -e /data/go ]; do sleep 0.1; done; cat /data/file"]
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
  - name: term
    image: docker.io/library/busybox
    tty: true
    command: [sh, -c, "tty; test -t 0 && echo terminal"]
`))
	p.waitOutput("app | ready")
	p.waitOutput("other | here")
	out := shared.must(t, home, "exec", "shell", "-c", "other", "--", "sh", "-c", "cat /data/file; touch /data/x 2>&1; id -u; ls /dev")
	contains(t, "exec", out, "written", "Read-only file system", "0\n", "urandom")
	for _, device := range []string{"attestation", "tun", "console"} {
		if strings.Contains(out, device) {
			t.Errorf("a container has the device %s: %s", device, out)
		}
	}
	if out := shared.must(t, home, "exec", "shell", "-c", "app", "--", "touch", "/data/go"); out != "" {
		t.Errorf("touch said %q", out)
	}
	if code := p.wait(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	contains(t, "the output", p.stdout(), "app | shell", "other | written", "term | /dev/pts/", "term | terminal")
}

// A limit that a library OS would not keep is refused before anything starts.
func TestProcessRefusesLimits(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	shared.startTrustee(t, home, "")
	p := shared.run(t, home, "--tee", "sgx-sim", write(t, home, "pod.yaml", `apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  containers:
  - {name: app, image: docker.io/library/busybox, resources: {limits: {memory: 64Mi}}}
`))
	if code := p.wait(); code != 120 {
		t.Errorf("exit code %d, want 120: input", code)
	}
	contains(t, "the refusal", p.stderr(), "resources.limits.memory", "library OS")
}
