package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/host/supervise"
)

// tracker remembers every process that a command has started, however far
// down, so that a test can say that none of them is left. A process that left
// its parent (the trustee, the supervisor) is still one of them.
type tracker struct {
	root int // pid of the command

	mu   sync.Mutex
	seen map[supervise.Proc]string // to its command
}

// trackers share one reader of /proc.
var trackers struct {
	sync.Mutex
	all []*tracker
}

// track watches over the descendants of a process until the test's end.
func track(t *testing.T, pid int) *tracker {
	t.Helper()
	tr := &tracker{root: pid, seen: map[supervise.Proc]string{}}
	trackers.Lock()
	trackers.all = append(trackers.all, tr)
	if len(trackers.all) == 1 {
		go lookAround()
	}
	trackers.Unlock()
	t.Cleanup(func() {
		trackers.Lock()
		defer trackers.Unlock()
		trackers.all = slices.DeleteFunc(trackers.all, func(x *tracker) bool { return x == tr })
	})
	return tr
}

// lookAround runs while there is a tracker.
func lookAround() {
	for {
		trackers.Lock()
		all := slices.Clone(trackers.all)
		trackers.Unlock()
		if len(all) == 0 {
			return
		}
		procs := processes()
		for _, tr := range all {
			tr.look(procs)
		}
		time.Sleep(40 * time.Millisecond)
	}
}

type process struct {
	supervise.Proc
	parent int
}

func processes() []process {
	var out []process
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", d.Name(), "stat"))
		if err != nil {
			continue
		}
		// The command in field 2 may hold anything; fields 4 and 22 follow it.
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 20 {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		start, _ := strconv.ParseUint(f[19], 10, 64)
		out = append(out, process{supervise.Proc{PID: pid, Start: start}, parent})
	}
	return out
}

// look adds the children of the command and of those seen before.
func (tr *tracker) look(procs []process) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	ours := map[int]bool{tr.root: true}
	for _, p := range procs {
		if tr.seen[p.Proc] != "" {
			ours[p.PID] = true
		}
	}
	for more := true; more; {
		more = false
		for _, p := range procs {
			if !ours[p.PID] && ours[p.parent] {
				ours[p.PID], tr.seen[p.Proc], more = true, command(p.PID), true
			}
		}
	}
}

// command names a process by its program and first argument.
func command(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(b), "\x00")
	if err != nil || args[0] == "" {
		return "?"
	}
	name := filepath.Base(args[0])
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") && len(args[1]) < 20 {
		name += " " + args[1]
	}
	return name
}

// left names the processes that are still there.
func (tr *tracker) left() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var out []string
	for p := range tr.seen {
		if p.Alive() {
			out = append(out, fmt.Sprintf("%s (%d)", command(p.PID), p.PID))
		}
	}
	return out
}

// pids gives the living processes whose command begins with name.
func (tr *tracker) pids(name string) []int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var out []int
	for p := range tr.seen {
		if p.Alive() && strings.HasPrefix(command(p.PID), name) {
			out = append(out, p.PID)
		}
	}
	return out
}

// cleanWithin is how long anything of a run may outlive it (issue 2, point 5).
const cleanWithin = 5 * time.Second

// leftAfter gives the processes and run directories of home that are still there
// after d; none as soon as there are none.
func leftAfter(tr *tracker, home string, d time.Duration) []string {
	for deadline := time.Now().Add(d); ; time.Sleep(25 * time.Millisecond) {
		dirs, _ := filepath.Glob(filepath.Join(home, "run", "*"))
		left := append(tr.left(), dirs...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// nothingLeft fails if a process or a run directory of home outlives its run.
func nothingLeft(t *testing.T, tr *tracker, home string) {
	t.Helper()
	if left := leftAfter(tr, home, cleanWithin); len(left) > 0 {
		t.Errorf("left behind after %s: %v", cleanWithin, left)
	}
}
