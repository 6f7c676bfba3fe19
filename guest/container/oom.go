package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatcher reads memory.events of each container when the kernel says that it
// has changed.
type oomWatcher struct {
	f      *os.File // inotify
	report func(containerID string)

	mu   sync.Mutex
	byWD map[int32]*Container
	seen map[*Container]uint64
}

func newOOMWatcher(report func(string)) (*oomWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching for memory shortage: %w", err)
	}
	w := &oomWatcher{f: os.NewFile(uintptr(fd), "inotify"), report: report, byWD: map[int32]*Container{}, seen: map[*Container]uint64{}}
	go w.run()
	return w, nil
}

// watch adds a container; one without the memory controller is not watched.
func (w *oomWatcher) watch(c *Container) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	file := filepath.Join(c.cgroup.dir, "memory.events")
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	wd, err := unix.InotifyAddWatch(int(w.f.Fd()), file, unix.IN_MODIFY)
	if err != nil {
		return fmt.Errorf("watching for memory shortage: %w", err)
	}
	w.byWD[int32(wd)] = c
	return nil
}

func (w *oomWatcher) forget(c *Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd, o := range w.byWD {
		if o == c {
			_, _ = unix.InotifyRmWatch(int(w.f.Fd()), uint32(wd))
			delete(w.byWD, wd)
		}
	}
	delete(w.seen, c)
}

func (w *oomWatcher) run() {
	b := make([]byte, 4096)
	for {
		n, err := w.f.Read(b)
		if err != nil {
			return
		}
		for e := b[:n]; len(e) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(e))
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(e[12:]))
			w.mu.Lock()
			c := w.byWD[wd]
			w.mu.Unlock()
			if c != nil {
				w.check(c)
			}
			e = e[min(size, len(e)):]
		}
	}
}

// check reports if there were more kills since the last look.
func (w *oomWatcher) check(c *Container) {
	n := c.cgroup.oomKills()
	w.mu.Lock()
	more := n > w.seen[c]
	w.seen[c] = n
	w.mu.Unlock()
	if more {
		w.report(c.ID)
	}
}

// oomKills counts the processes of the group that the kernel killed for memory.
func (g *cgroup) oomKills() uint64 {
	ev, err := g.keyed("memory.events")
	if err != nil {
		return 0
	}
	return ev["oom_kill"]
}
