package shim

import (
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
)

// unifiedCgroups reports whether the host has cgroup v2 alone: containerd reads
// the form of the host's mode, whatever the guest has.
func unifiedCgroups() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// metrics gives the guest's figures in the host's form, and the form's name.
func metrics(g *agentpb.CgroupStats, unified bool) (string, []byte, error) {
	cpu, mem, pids := g.GetCpuStats(), g.GetMemoryStats(), g.GetPidsStats()
	var m proto.Message
	if unified {
		out := &v2.Metrics{
			CPU: &v2.CPUStat{
				UsageUsec:  cpu.GetCpuUsage().GetTotalUsage() / 1000,
				UserUsec:   cpu.GetCpuUsage().GetUsageInUsermode() / 1000,
				SystemUsec: cpu.GetCpuUsage().GetUsageInKernelmode() / 1000,
				NrPeriods:  cpu.GetThrottlingData().GetPeriods(), NrThrottled: cpu.GetThrottlingData().GetThrottledPeriods(),
				ThrottledUsec: cpu.GetThrottlingData().GetThrottledTime() / 1000,
			},
			Memory: &v2.MemoryStat{Usage: mem.GetUsage().GetUsage(), UsageLimit: mem.GetUsage().GetLimit()},
			Pids:   &v2.PidsStat{Current: pids.GetCurrent(), Limit: pids.GetLimit()},
		}
		for key, to := range map[string]*uint64{
			"anon": &out.Memory.Anon, "file": &out.Memory.File, "inactive_file": &out.Memory.InactiveFile, "active_file": &out.Memory.ActiveFile,
			"inactive_anon": &out.Memory.InactiveAnon, "active_anon": &out.Memory.ActiveAnon, "pgfault": &out.Memory.Pgfault, "pgmajfault": &out.Memory.Pgmajfault,
		} {
			*to = mem.GetStats()[key]
		}
		m = out
	} else {
		st := mem.GetStats()
		out := &v1.Metrics{
			CPU: &v1.CPUStat{
				Usage: &v1.CPUUsage{
					Total: cpu.GetCpuUsage().GetTotalUsage(), User: cpu.GetCpuUsage().GetUsageInUsermode(),
					Kernel: cpu.GetCpuUsage().GetUsageInKernelmode(), PerCPU: cpu.GetCpuUsage().GetPercpuUsage(),
				},
				Throttling: &v1.Throttle{
					Periods: cpu.GetThrottlingData().GetPeriods(), ThrottledPeriods: cpu.GetThrottlingData().GetThrottledPeriods(),
					ThrottledTime: cpu.GetThrottlingData().GetThrottledTime(),
				},
			},
			Memory: &v1.MemoryStat{
				Usage: &v1.MemoryEntry{Usage: mem.GetUsage().GetUsage(), Max: mem.GetUsage().GetMaxUsage(), Limit: mem.GetUsage().GetLimit(), Failcnt: mem.GetUsage().GetFailcnt()},
				// The kubelet counts the working set as usage less the inactive files of the whole tree.
				InactiveFile: st["inactive_file"], TotalInactiveFile: st["inactive_file"], ActiveFile: st["active_file"], TotalActiveFile: st["active_file"],
				RSS: st["anon"], TotalRSS: st["anon"], Cache: st["file"], TotalCache: st["file"],
				PgFault: st["pgfault"], PgMajFault: st["pgmajfault"], TotalPgFault: st["pgfault"], TotalPgMajFault: st["pgmajfault"],
				// CRI-O reads these without looking whether they are there.
				Kernel: &v1.MemoryEntry{}, KernelTCP: &v1.MemoryEntry{}, Swap: &v1.MemoryEntry{},
			},
			Pids: &v1.PidsStat{Current: pids.GetCurrent(), Limit: pids.GetLimit()},
		}
		m = out
	}
	b, err := proto.Marshal(m)
	return string(proto.MessageName(m)), b, err
}
