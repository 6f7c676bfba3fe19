package vmm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

// BenchmarkBoot measures from Launch to the guest's first answer:
//
//	COFFER_E2E=1 go test ./host/vmm -run xxx -bench Boot -benchtime 5x
//
// cpu-s is what QEMU used, which other work on the machine disturbs less.
func BenchmarkBoot(b *testing.B) {
	w := setup(b)
	for _, tee := range []launch.TEE{launch.None, launch.TPMSim} {
		for _, m := range []struct {
			tb, cpus int
			mem      int
		}{{32, 1, 256}, {64, 1, 256}, {128, 1, 256}, {256, 1, 256}, {64, 2, 256}, {64, 1, 2048}} {
			b.Run(fmt.Sprintf("%s/tb=%d/cpus=%d/mem=%d", tee, m.tb, m.cpus, m.mem), func(b *testing.B) {
				var cpu, running float64
				var mem map[string]string
				for b.Loop() {
					s := w.spec(b, tee)
					s.VCPUs, s.MemoryMiB = m.cpus, m.mem
					start := time.Now()
					vm := w.launch(b, s, Options{Machine: &Machine{QEMUMajor: 10, TBSizeMiB: m.tb}})
					running += time.Since(start).Seconds()
					c := dial(b, vm, 't')
					_, _ = c.Write([]byte("x"))
					if _, err := c.Read(make([]byte, 1)); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					cpu += cpuSeconds(vm.PIDs()["qemu"])
					mem = rss(vm)
					_ = vm.Destroy()
					b.StartTimer()
				}
				b.ReportMetric(cpu/float64(b.N), "cpu-s/op")
				b.ReportMetric(running/float64(b.N), "launch-s/op")
				mib, _, _ := strings.Cut(mem["qemu"], " ")
				n, _ := strconv.ParseFloat(mib, 64)
				b.ReportMetric(n, "rss-MiB")
			})
		}
	}
}

// cpuSeconds is the user and system time of a process so far.
func cpuSeconds(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return float64(u+s) / 100
}
