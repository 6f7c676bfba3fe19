package pid1

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// reportMemory gives a function that, when first called, puts on the console one
// second later what the guest's own processes weigh. For debug images alone: a
// release guest tells its host nothing of the kind.
func reportMemory(log *slog.Logger) func() {
	return sync.OnceFunc(func() {
		time.AfterFunc(time.Second, func() {
			names, kib, err := guestPSS()
			if err != nil {
				log.Error("measuring the guest's memory", "err", err)
				return
			}
			log.Info("guest memory", "pss_kib", kib, "processes", names)
		})
	})
}

// guestPSS sums the proportional set sizes of all processes of this binary.
func guestPSS() (names string, kib int, err error) {
	self, err := os.Stat(exe)
	if err != nil {
		return "", 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", 0, err
	}
	for _, d := range dirs {
		fi, err := os.Stat(d + "/exe")
		if err != nil || !os.SameFile(fi, self) {
			continue // a kernel thread, a workload, or gone
		}
		n, err := pss(d)
		if err != nil {
			continue // gone
		}
		kib += n
		cmd, _ := os.ReadFile(d + "/cmdline")
		name, _, _ := bytes.Cut(cmd, []byte{0})
		names += fmt.Sprintf("%s=%d ", name, n)
	}
	return names, kib, nil
}

func pss(dir string) (int, error) {
	f, err := os.Open(dir + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := bytes.CutPrefix(sc.Bytes(), []byte("Pss:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(v), []byte("kB")))))
		}
	}
	return 0, fmt.Errorf("%s has no Pss", f.Name())
}
