package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// cgroup is the pod's own control group, made by us below the one that the kubelet
// has made for the pod: what the TEE's processes use on the node counts there.
type cgroup struct{ dirs []string } // one, or with v1 one for each hierarchy

// joinCgroup makes the group that a sandbox's bundle names and puts the processes
// into it, with all that they have started. A bundle without one gets none. On error
// too the caller removes what was made, once the processes have ended.
func joinCgroup(root, name string, pids []int) (*cgroup, error) {
	rel, err := cgroupDir(name)
	if err != nil || rel == "" {
		return &cgroup{}, err
	}
	bases, err := hierarchies(root)
	if err != nil {
		return nil, err
	}
	c := &cgroup{}
	for _, base := range bases {
		dir := filepath.Join(base, rel)
		// Without the kubelet's group this would be one of nobody's.
		if _, err := os.Stat(filepath.Dir(dir)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return c, fmt.Errorf("making the pod's control group: %w", err)
		}
		c.dirs = append(c.dirs, dir)
	}
	if len(c.dirs) == 0 {
		return c, nil
	}
	if err := moveAll(c.dirs, pids); err != nil {
		return c, fmt.Errorf("joining the pod's control group: %w", err)
	}
	return c, nil
}

// moveAll puts the processes and their descendants into the groups. A process is asked
// for its children once it is in all of them: what it starts from then on is there too,
// so that this ends. A short-lived one may have ended; where none is left, there is no TEE.
func moveAll(dirs []string, pids []int) error {
	moved, there := map[int]bool{}, 0
	for todo := slices.Clone(pids); len(todo) > 0; {
		pid := todo[0]
		if todo = todo[1:]; moved[pid] {
			continue
		}
		moved[pid] = true
		ended := false
		for _, dir := range dirs {
			err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
			if errors.Is(err, unix.ESRCH) {
				ended = true
				break
			}
			if err != nil {
				return err
			}
		}
		if !ended {
			there++
		}
		todo = append(todo, childrenOf(pid)...)
	}
	if there == 0 && len(pids) > 0 {
		return unix.ESRCH
	}
	return nil
}

// childrenOf lists the processes that any thread of a process has started.
func childrenOf(pid int) []int {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	var out []int
	for _, t := range threads {
		b, err := os.ReadFile(filepath.Join(dir, t.Name(), "children"))
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// remove takes the groups away; their processes have ended or go to the parent's.
func (c *cgroup) remove() error {
	var errs []error
	for _, d := range c.dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the pod's control group: %w", err))
		}
	}
	return errors.Join(errs...)
}

// cgroupDir gives the directory below a hierarchy's root that an OCI cgroups path
// names: as it is, or "slice:prefix:name" where systemd manages them.
func cgroupDir(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if parts := strings.Split(name, ":"); len(parts) == 3 {
		slice := ""
		stem := strings.TrimSuffix(parts[0], ".slice")
		for i, r := range stem { // a-b.slice lies in a.slice
			if r == '-' {
				slice = filepath.Join(slice, stem[:i]+".slice")
			}
		}
		slice = filepath.Join(slice, parts[0])
		name = filepath.Join(slice, parts[1]+"-"+parts[2]+".scope")
	}
	if slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsAny(name, "\x00\n") {
		return "", fmt.Errorf("the bundle's cgroups path %.200q is none", name)
	}
	rel := strings.TrimPrefix(filepath.Clean("/"+name), "/")
	if !strings.Contains(rel, "/") {
		return "", fmt.Errorf("the bundle's cgroups path %.200q is not below a pod's", name)
	}
	return rel, nil
}

// hierarchies gives the roots to make a group in: the one of v2, or every one of v1.
func hierarchies(root string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("reading control groups: %w", err)
	}
	var out []string
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if e.Type()&fs.ModeSymlink != 0 { // cpu -> cpu,cpuacct
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			out = append(out, dir)
		}
	}
	return out, nil
}
