package container

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Stats reads the container's usage from its cgroup.
func (c *Container) Stats() *agentpb.CgroupStats {
	g := c.cgroup
	cpu, _ := g.keyed("cpu.stat")
	mem, _ := g.keyed("memory.stat")
	events, _ := g.keyed("memory.events")
	return &agentpb.CgroupStats{
		CpuStats: &agentpb.CpuStats{
			CpuUsage: &agentpb.CpuUsage{ // nanoseconds
				TotalUsage:        cpu["usage_usec"] * 1000,
				UsageInKernelmode: cpu["system_usec"] * 1000,
				UsageInUsermode:   cpu["user_usec"] * 1000,
			},
			ThrottlingData: &agentpb.ThrottlingData{
				Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: cpu["throttled_usec"] * 1000,
			},
		},
		MemoryStats: &agentpb.MemoryStats{
			Cache: mem["file"],
			Usage: &agentpb.MemoryData{
				Usage: g.number("memory.current"), MaxUsage: g.number("memory.peak"),
				Failcnt: events["max"], Limit: g.number("memory.max"),
			},
			SwapUsage:    &agentpb.MemoryData{Usage: g.number("memory.swap.current"), Limit: g.number("memory.swap.max")},
			KernelUsage:  &agentpb.MemoryData{Usage: mem["kernel"]},
			UseHierarchy: true,
			Stats:        mem,
		},
		PidsStats:  &agentpb.PidsStats{Current: g.number("pids.current"), Limit: g.number("pids.max")},
		BlkioStats: g.ioStats(),
	}
}

// ioStats reads io.stat: "major:minor rbytes=n wbytes=n rios=n wios=n ..." a line.
func (g *cgroup) ioStats() *agentpb.BlkioStats {
	out := &agentpb.BlkioStats{}
	b, err := os.ReadFile(filepath.Join(g.dir, "io.stat"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		maj, min, _ := strings.Cut(f[0], ":")
		major, err1 := strconv.ParseUint(maj, 10, 32)
		minor, err2 := strconv.ParseUint(min, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				continue
			}
			e := &agentpb.BlkioStatsEntry{Major: major, Minor: minor, Value: n}
			switch k {
			case "rbytes", "wbytes":
				e.Op = map[string]string{"rbytes": "Read", "wbytes": "Write"}[k]
				out.IoServiceBytesRecursive = append(out.IoServiceBytesRecursive, e)
			case "rios", "wios":
				e.Op = map[string]string{"rios": "Read", "wios": "Write"}[k]
				out.IoServicedRecursive = append(out.IoServicedRecursive, e)
			}
		}
	}
	return out
}
