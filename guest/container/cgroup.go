package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is one version 2 control group.
type cgroup struct{ dir string }

// newCgroup makes the group name below parent and sets the limits. A limit whose
// controller is missing is an error: a container never runs without a limit that
// its policy names. In a library OS those that it does not keep are errors, too; it
// has no device but its own, so none is restricted.
func newCgroup(parent, name string, l Limits, devices []Device, libraryOS bool) (*cgroup, error) {
	restrict := restrictDevices
	if libraryOS {
		if err := l.withinLibraryOS(); err != nil {
			return nil, err
		}
		if len(devices) > 0 {
			return nil, fmt.Errorf("a block device: %w", errLibraryOS)
		}
		restrict = func(string, []Device) error { return nil }
	}
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making cgroup: %w", err)
	}
	g := &cgroup{dir}
	if err := errors.Join(g.limit(l), restrict(dir, devices)); err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	// The whole container ends, not one process of it in silence.
	_ = g.write("memory.oom.group", "1") // absent without the controller
	return g, nil
}

// errLibraryOS says why something cannot be had.
var errLibraryOS = errors.New("the pod's kernel is a library OS, which cannot do that")

// withinLibraryOS refuses what a library OS would take and not keep: gVisor
// remembers these numbers and does nothing with them. CPU shares are no limit but a
// wish, and mean nothing there.
func (l *Limits) withinLibraryOS() error {
	switch {
	case l.MemoryBytes > 0:
		return fmt.Errorf("limiting a container's memory: %w", errLibraryOS)
	case l.CPUQuota > 0:
		return fmt.Errorf("limiting a container's CPU time: %w", errLibraryOS)
	}
	return nil
}

func (g *cgroup) write(file, value string) error {
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("setting cgroup limit %s: %w", file, err)
	}
	return nil
}

// limit sets what l names.
func (g *cgroup) limit(l Limits) error {
	var errs []error
	if l.MemoryBytes > 0 {
		errs = append(errs, g.write("memory.max", strconv.FormatInt(l.MemoryBytes, 10)))
	}
	if l.CPUQuota > 0 {
		period := l.CPUPeriod
		if period == 0 {
			period = 100000
		}
		errs = append(errs, g.write("cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, period)))
	}
	if l.CPUShares > 0 {
		errs = append(errs, g.write("cpu.weight", strconv.FormatUint(weight(l.CPUShares), 10)))
	}
	if l.Pids > 0 {
		errs = append(errs, g.write("pids.max", strconv.FormatInt(l.Pids, 10)))
	}
	return errors.Join(errs...)
}

// weight maps cgroup v1 shares (2..262144) to v2 weights (1..10000), linearly as
// the Kubernetes documentation defines it.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// open gives a descriptor for CLONE_INTO_CGROUP.
func (g *cgroup) open() (*os.File, error) {
	f, err := os.OpenFile(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening cgroup: %w", err)
	}
	return f, nil
}

// kill ends every process in the group.
func (g *cgroup) kill() error { return g.write("cgroup.kill", "1") }

// freeze stops or thaws every process and waits until it is so.
func (g *cgroup) freeze(on bool) error {
	v := "0"
	if on {
		v = "1"
	}
	if err := g.write("cgroup.freeze", v); err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ev, err := g.keyed("cgroup.events"); err != nil || (ev["frozen"] == 1) == on {
			return err
		}
	}
	return errors.New("freezing the container: not done after 5 s")
}

// remove deletes the group; its processes must have been killed.
func (g *cgroup) remove() error {
	var err error
	for range 200 { // the kernel empties a killed group a little later
		err = os.Remove(g.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("removing cgroup: %w", err)
}

// keyed reads a "name value" file.
func (g *cgroup) keyed(file string) (map[string]uint64, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			out[k] = n
		}
	}
	return out, nil
}

// number reads a file with one number; "max" and a missing file are 0.
func (g *cgroup) number(file string) uint64 {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}
