package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary also plays the other processes.
func TestMain(m *testing.M) {
	switch os.Getenv("SUPERVISE_TEST_ROLE") {
	case "launcher":
		launcher()
	case "parent":
		parent()
	case "drop":
		dropping()
	}
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		if err := Main(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// launcher starts a supervisor and a stubborn process, tells their pids, waits.
func launcher() {
	check := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	dir := os.Getenv("SUPERVISE_TEST_DIR")
	w, err := Watch(dir, os.Getppid(), []string{"made"}, os.Args[0], "supervise")
	check(err)
	check(os.Mkdir(filepath.Join(dir, "made"), 0o700))
	sleep, err := exec.LookPath("sleep")
	check(err)
	c, err := Start(&Command{Path: sleep, Args: []string{"1000"}})
	check(err)
	check(w.Add("sleep", c.Process.Pid))
	fmt.Println("pids", os.Getpid(), w.cmd.Process.Pid, c.Process.Pid)
	time.Sleep(time.Minute)
}

// parent makes the run directory's owner: it starts a launcher and waits.
func parent() {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "SUPERVISE_TEST_ROLE=launcher")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		fmt.Println("error", err)
	}
	time.Sleep(time.Minute)
}

type world struct {
	dir                                 string
	parent, launcher, supervisor, sleep int
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{dir: filepath.Join(t.TempDir(), "run")}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "SUPERVISE_TEST_ROLE=parent", "SUPERVISE_TEST_DIR="+w.dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go c.Wait()
	w.parent = c.Process.Pid
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "pids %d %d %d", &w.launcher, &w.supervisor, &w.sleep); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	t.Cleanup(func() {
		for _, p := range []int{w.parent, w.launcher, w.supervisor, w.sleep} {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
	})
	return w
}

func (w *world) kill(pids ...int) {
	for _, p := range pids {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// supervised says whether the launcher has a supervisor other than the first.
func (w *world) supervised() bool {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		stat, _ := os.ReadFile(p + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		line, _ := os.ReadFile(p + "/cmdline")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(w.launcher) &&
			strings.HasSuffix(string(line), "\x00supervise\x00") && filepath.Base(p) != strconv.Itoa(w.supervisor) {
			return true
		}
	}
	return false
}

// within waits until f holds.
func within(t *testing.T, d time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s still not: %s", d, what)
		}
	}
}

func dead(pid int) func() bool {
	return func() bool {
		p, err := Identify(pid)
		return err != nil || !p.Alive() // all of its threads, not the first one alone
	}
}

func absent(path string) func() bool {
	return func() bool { _, err := os.Lstat(path); return errors.Is(err, os.ErrNotExist) }
}

func TestLauncherKilled(t *testing.T) {
	w := start(t)
	w.kill(w.launcher)
	within(t, 5*time.Second, "process dead", dead(w.sleep))
	within(t, 5*time.Second, "made files gone", absent(filepath.Join(w.dir, "made")))
	within(t, 5*time.Second, "supervisor gone", dead(w.supervisor))
	// Its maker is alive and removes the directory itself.
	if absent(w.dir)() {
		t.Error("the directory of a living maker was removed")
	}
}

func TestLauncherAndParentKilled(t *testing.T) {
	w := start(t)
	w.kill(w.parent, w.launcher)
	within(t, 5*time.Second, "process dead", dead(w.sleep))
	within(t, 5*time.Second, "directory gone", absent(w.dir))
	within(t, 5*time.Second, "supervisor gone", dead(w.supervisor))
}

func TestSupervisorIsReplaced(t *testing.T) {
	w := start(t)
	time.Sleep(1100 * time.Millisecond) // it counts as having lived
	w.kill(w.supervisor)
	within(t, 5*time.Second, "old supervisor dead", dead(w.supervisor))
	within(t, 10*time.Second, "another supervisor", w.supervised)
	time.Sleep(100 * time.Millisecond) // it is told its record right after
	w.kill(w.launcher, w.parent)
	within(t, 5*time.Second, "process dead", dead(w.sleep))
	within(t, 5*time.Second, "directory gone", absent(w.dir))
}

func TestSweep(t *testing.T) {
	w := start(t)
	root := filepath.Dir(w.dir)
	if got, err := Sweep(root); err != nil || len(got) != 0 || absent(w.dir)() {
		t.Fatalf("a living run was swept: %v, %v", got, err)
	}
	w.kill(w.supervisor, w.launcher, w.parent)
	within(t, 5*time.Second, "all dead", func() bool { return dead(w.launcher)() && dead(w.parent)() && dead(w.sleep)() })
	if absent(w.dir)() {
		t.Skip("the supervisor was faster than its killer")
	}
	got, err := Sweep(root)
	if err == nil && len(got) == 0 { // a supervisor that took the killed one's place is at it
		within(t, 5*time.Second, "directory gone without the sweep", absent(w.dir))
		t.Skip("the supervisor was faster than its killer")
	}
	if err != nil || len(got) != 1 || !absent(w.dir)() {
		t.Fatalf("sweep: %v, %v", got, err)
	}
}

// A process that took over a recorded pid is somebody else's.
func TestRecycledPIDIsSpared(t *testing.T) {
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	p, err := Identify(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "old-run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := record{Boot: bootID(), Owner: Proc{PID: p.PID, Start: p.Start - 1}, Procs: map[string]Proc{"qemu": {PID: p.PID, Start: p.Start - 1}}}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := Sweep(root); err != nil || len(got) != 1 {
		t.Fatalf("sweep: %v, %v", got, err)
	}
	if !p.Alive() {
		t.Fatal("an innocent process was killed")
	}
	if err := p.Kill(time.Second); err != nil || p.Alive() {
		t.Fatalf("kill: %v, alive %v", err, p.Alive())
	}
}

func TestSweepLeavesOthersAlone(t *testing.T) {
	root := t.TempDir()
	mk := func(name string, mode os.FileMode, age time.Duration, files map[string]string) string {
		d := filepath.Join(root, name)
		if err := os.Mkdir(d, mode); err != nil {
			t.Fatal(err)
		}
		for n, s := range files {
			if err := os.WriteFile(filepath.Join(d, n), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		old := time.Now().Add(-age)
		if err := os.Chtimes(d, old, old); err != nil {
			t.Fatal(err)
		}
		return d
	}
	self := fmt.Sprintf(`{"pid": %d}`, os.Getpid())
	keep := []string{
		mk("public", 0o755, time.Hour, nil),
		mk("just-made", 0o700, 0, nil),
		mk("maker-alive", 0o700, time.Hour, map[string]string{"state.json": self}),
	}
	gone := []string{
		mk("abandoned", 0o700, time.Hour, nil),
		mk("maker-dead", 0o700, time.Hour, map[string]string{"state.json": `{"pid": 4194999}`}),
		mk("other-boot", 0o700, 0, map[string]string{RecordFile: `{"boot": "x", "owner": {"pid": 1, "start": 1}}`}),
		mk("half-written", 0o700, time.Hour, map[string]string{RecordFile: `{"boot`}),
	}
	if _, err := Sweep(root); err != nil {
		t.Fatal(err)
	}
	for _, d := range keep {
		if absent(d)() {
			t.Errorf("%s was removed", filepath.Base(d))
		}
	}
	for _, d := range gone {
		if !absent(d)() {
			t.Errorf("%s was kept", filepath.Base(d))
		}
	}
	if got, err := Sweep(filepath.Join(root, "nonexistent")); err != nil || got != nil {
		t.Errorf("no root: %v, %v", got, err)
	}
}

// A record is read by a sweep of a later version or after a torn write.
func FuzzRecord(f *testing.F) {
	b, _ := json.Marshal(record{Boot: "b", Procs: map[string]Proc{"q": {1, 2}}})
	f.Add(b)
	f.Add([]byte(`{"procs": {"a": null}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, RecordFile), in, 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, _ = readRecord(root, ".")
	})
}

// dropping drops to the uid that the test names and says what the kernel makes of
// every thread.
func dropping() {
	uid, err := strconv.Atoi(os.Getenv("SUPERVISE_TEST_UID"))
	if err == nil {
		err = Drop(uid)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	threads, _ := filepath.Glob("/proc/self/task/*/status")
	for _, th := range threads {
		b, _ := os.ReadFile(th)
		os.Stdout.Write(b)
	}
	fmt.Println("back to root:", syscall.Setuid(0))
	os.Exit(0)
}

func TestDrop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes uids: needs root")
	}
	try := func(uid string) string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"SUPERVISE_TEST_ROLE=drop", "SUPERVISE_TEST_UID=" + uid}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	uid, _, err := PrivateUIDs()
	if err != nil {
		t.Fatal(err)
	}
	id := strconv.Itoa(uid)
	got := try(id)
	ids := strings.Repeat("\t"+id, 4) + "\n"
	for _, want := range []string{"\nUid:" + ids, "\nGid:" + ids, "\nGroups:\t \n", "\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
		if n := strings.Count(got, want); n < 1 || n != strings.Count(got, "\nUid:") {
			t.Errorf("%q in %d threads of %d:\n%s", want, n, strings.Count(got, "\nUid:"), got)
		}
	}
	if !strings.Contains(got, "back to root: operation not permitted") {
		t.Errorf("the way back:\n%s", got)
	}
	if got := try("0"); !strings.Contains(got, "error giving up privileges: no uid") {
		t.Errorf("root without a uid to run under: %s", got)
	}
}

func TestStartConfines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes uids: needs root")
	}
	uid, other, err := PrivateUIDs()
	if err != nil {
		t.Fatal(err)
	}
	if uid == other || uid < 1000 {
		t.Fatalf("uids %d and %d", uid, other)
	}
	out, w, err := NewOutput()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(&Command{Path: cat, Args: []string{"/proc/self/status"}, UID: uid, BindLowPorts: true, Output: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	got := out.Text()
	for _, want := range []string{"Uid:\t" + strconv.Itoa(uid), "Groups:\t \n", "CapEff:\t0000000000000400"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestLockedMemory: a process that devices reach into may lock more than its parent,
// which has its own limit again afterwards.
func TestLockedMemory(t *testing.T) {
	limit := func() syscall.Rlimit {
		var l syscall.Rlimit
		const memlock = 8 // RLIMIT_MEMLOCK
		if err := syscall.Getrlimit(memlock, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := limit()
	const mib = 3
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(&Command{Path: "/bin/sh", Args: []string{"-c", "ulimit -l"}, LockMiB: mib, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(out.Name()); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(mib<<10) {
		t.Errorf("it may lock %q KiB (%v)", b, err)
	}
	if after := limit(); after != before {
		t.Errorf("this process may lock %+v, before %+v", after, before)
	}
}
