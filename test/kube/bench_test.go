package kube

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHowFast prints how long pods take from kubectl apply to Ready, five times in
// turn, and what the shim costs (make bench-kube). It judges nothing.
func TestHowFast(t *testing.T) {
	if os.Getenv("COFFER_KUBE_BENCH") != "1" {
		t.Skip("a measurement: make bench-kube")
	}
	k := cluster
	const runs = 5
	times := map[string][]float64{}
	var cpu, rss []float64
	weights := map[string][]float64{}
	idle := map[string][]float64{}
	lines := map[string][]float64{}                     // class and program: MiB
	vms := []string{"coffer-tpm-sim", "coffer-snp-sim"} // with and without firmware
	bare, beyond := map[string][]float64{}, map[string][]float64{}
	bench := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", bench, "../bench").CombinedOutput(); err != nil {
		t.Fatalf("building test/bench: %v\n%s", err, out)
	}
	for i := range runs {
		for _, class := range vms {
			bare[class] = append(bare[class], bareBoot(t, bench, teeOf(class)))
		}
		for _, class := range []string{"runc", "coffer-tpm-sim", "coffer-snp-sim", "coffer-process-sim"} {
			name := fmt.Sprintf("%s-%d", class, i)
			manifest := simple(name, class, "sleep 3600")
			var path string
			if class == "runc" {
				path = k.file(t, strings.Replace(manifest, "  runtimeClassName: runc\n", "", 1))
			} else {
				path, _ = k.seal(t, teeOf(class), manifest)
			}
			began := time.Now()
			k.must(t, "kubectl", "apply", "-f", path)
			k.ready(t, name)
			times[class] = append(times[class], time.Since(began).Seconds())
			if class == "coffer-tpm-sim" {
				c, r := k.shim(t)
				cpu, rss = append(cpu, c), append(rss, r)
			}
			if i := slices.IndexFunc(holders, func(h holder) bool { return h.class == class }); i >= 0 {
				mem, cores := k.podGroup(t, holders[i].process)
				weights[class], idle[class] = append(weights[class], mem), append(idle[class], cores)
				for name, mib := range k.podProcesses(t, holders[i].process) {
					lines[class+" "+name] = append(lines[class+" "+name], mib)
				}
			}
			k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
		}
		k.nothingLeft(t)
		for _, class := range vms {
			beyond[class] = append(beyond[class], times[class][i]-times["runc"][i]-bare[class][i])
		}
	}
	for _, class := range vms {
		t.Logf("%-16s bare boot of the same guest, seconds: %s; beyond that and runc, seconds (bound 2.0): %s", class, spread(bare[class]), spread(beyond[class]))
	}
	for class, s := range times {
		t.Logf("%-16s apply to Ready, seconds: %s", class, spread(s))
	}
	for class := range weights {
		t.Logf("%-16s pod's control group, all of it (its container sleeps): peak MiB %s; idle, thousandths of a CPU: %s", class, spread(weights[class]), spread(idle[class]))
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		t.Logf("%-50s MiB of PSS: %s", name, spread(lines[name]))
	}
	t.Logf("shim's CPU of a start, milliseconds: %s", spread(cpu))
	t.Logf("shim's resident memory, MiB: %s", spread(rss))
}

// TestTenAtOnce prints what CPU ten pods take that start together, until all are Ready,
// against ten that start one after the other, each beyond what the same calls take with
// pods of runc, which have none of ours; make bench-kube. It judges nothing.
func TestTenAtOnce(t *testing.T) {
	if os.Getenv("COFFER_KUBE_BENCH") != "1" {
		t.Skip("a measurement: make bench-kube")
	}
	k := cluster
	for class, pods := range map[string]int{"coffer-process-sim": 10, "coffer-snp-sim": 5} { // VMs as many as a node of two cores has room for
		t.Run(class, func(t *testing.T) {
			single, together := k.atOnce(t, "runc", pods)
			s, a := k.atOnce(t, class, pods)
			t.Logf("CPU until Ready, seconds: %d one after the other %.1f, at once %.1f: %.2f times; with runc %.1f and %.1f; beyond that %.1f and %.1f: %.2f times (bound 1.2)",
				pods, s, a, a/s, single, together, s-single, a-together, (a-together)/(s-single))
		})
	}
}

// atOnce gives the seconds of CPU of the whole machine for pods of a class in turn, and at once.
func (k *kube) atOnce(t *testing.T, class string, pods int) (single, together float64) {
	t.Helper()
	var paths, names []string
	for i := range pods {
		name := fmt.Sprintf("ten-%s-%d", class, i)
		path := k.file(t, strings.Replace(simple(name, class, "sleep 3600"), "  runtimeClassName: runc\n", "", 1))
		if class != "runc" {
			path, _ = k.seal(t, teeOf(class), simple(name, class, "sleep 3600"))
		}
		paths, names = append(paths, path), append(names, "pod/"+name)
	}
	defer func() {
		_, _ = k.in(append([]string{"kubectl", "delete", "--ignore-not-found", "--timeout=120s"}, names...)...)
	}()
	start := func(from, to int) float64 {
		apply := []string{"kubectl", "apply"}
		for _, p := range paths[from:to] {
			apply = append(apply, "-f", p)
		}
		before := busy(t)
		k.must(t, apply...)
		for _, n := range names[from:to] { // each within a test's patience
			k.ready(t, strings.TrimPrefix(n, "pod/"))
		}
		used := busy(t) - before
		k.must(t, append([]string{"kubectl", "delete", "--timeout=120s"}, names[from:to]...)...)
		k.nothingLeft(t)
		return used
	}
	start(0, 1) // not counted: what is cached then is cached for all
	for i := range pods {
		single += start(i, i+1)
	}
	return single, start(0, pods)
}

// busy gives the seconds that this machine's processors have worked, whoever for.
func busy(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // user, nice, system, idle, iowait, irq, softirq, steal, in ticks of 10 ms
	sum := 0.0
	for _, at := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseFloat(f[at], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n / 100
	}
	return sum
}

// hostPID finds the one process on this machine with these words in its command line.
func hostPID(t *testing.T, words string) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", words).Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(out))
	if len(f) != 1 {
		t.Fatalf("processes %v, want one", f)
	}
	n, err := strconv.Atoi(f[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bareBoot gives the seconds in which the VM of a pod's size and TEE boots to the first
// line of an init that does nothing else, outside of the cluster.
func bareBoot(t *testing.T, bench, tee string) float64 {
	t.Helper()
	cmd := exec.Command(bench, "--bare", "--bare-tee="+tee, "--runs=1", "--bin=../../bin", "--platform", os.Getenv("COFFER_PLATFORM"), "--memory=384")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// podGroup gives the most memory in MiB that the pod's control group has had, and the
// CPU that it takes when nothing happens, in thousandths.
func (k *kube) podGroup(t *testing.T, process string) (peak, idle float64) {
	t.Helper()
	pid, err := k.pid(process)
	if err != nil {
		t.Fatal(err)
	}
	// Version 1 has a hierarchy for each controller.
	out := k.must(t, "bash", "-c", `at() { dirname "$(sed -n "s/^[0-9]*:$1://p" /proc/`+pid+`/cgroup)"; }
		if [ -e /sys/fs/cgroup/memory ]; then
			m=/sys/fs/cgroup/memory$(at memory)/memory.max_usage_in_bytes; c=/sys/fs/cgroup/cpuacct$(at cpuacct)/cpuacct.usage; ns=1
		else
			m=/sys/fs/cgroup$(at "")/memory.peak; c=/sys/fs/cgroup$(at "")/cpu.stat; ns=1000
		fi
		cpu() { grep -oE '^(usage_usec )?[0-9]+$' $c | grep -oE '[0-9]+$'; }
		a=$(cpu); sleep 5; b=$(cpu); echo $(cat $m) $(((b - a) * ns / 5000000))`)
	if _, err := fmt.Sscan(out, &peak, &idle); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return peak / (1 << 20), idle
}

// podProcesses gives what each program of the pod's control group has of memory (PSS, in
// MiB), one that runs several times summed up. Processes that share one address space
// have one figure and count once.
func (k *kube) podProcesses(t *testing.T, process string) map[string]float64 {
	t.Helper()
	pid, err := k.pid(process)
	if err != nil {
		t.Fatal(err)
	}
	out := k.must(t, "bash", "-c", `at() { dirname "$(sed -n "s/^[0-9]*:$1://p" /proc/`+pid+`/cgroup)"; }
		d=/sys/fs/cgroup/memory$(at memory); [ -e /sys/fs/cgroup/memory ] || d=/sys/fs/cgroup$(at "")
		find $d -name cgroup.procs -exec cat {} + | sort -un | while read p; do
			awk -v exe="$(basename "$(readlink /proc/$p/exe)" | tr -d ' ')" '/^Pss:/ {pss=$2} /^Rss:/ {rss=$2} END {print exe, pss, rss}' /proc/$p/smaps_rollup 2>/dev/null
		done | sort -u`)
	found := map[string]float64{}
	for line := range strings.Lines(out) {
		var name string
		var pss, rss float64
		if _, err := fmt.Sscan(line, &name, &pss, &rss); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		found[name] += pss / 1024
	}
	return found
}

func spread(s []float64) string {
	s = slices.Sorted(slices.Values(s))
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s[len(s)/2], s[0], s[len(s)-1])
}

// shim gives the CPU time in milliseconds and the memory in MiB of the one shim.
func (k *kube) shim(t *testing.T) (cpu, rss float64) {
	t.Helper()
	pid, err := k.pid(shimProcess)
	if err != nil {
		t.Fatal(err)
	}
	// The process's own clock, threads that have ended included; from outside of the
	// cluster, where it has another number.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^hostPID(t, shimProcess)<<3|2), &ts); err != nil {
		t.Fatal(err)
	}
	cpu = float64(ts.Nano()) / 1e6
	f := strings.Fields(k.must(t, "cat", "/proc/"+pid+"/stat")) // the name has no space
	pages, err := strconv.ParseFloat(f[23], 64)
	if err != nil {
		t.Fatal(err)
	}
	return cpu, pages * float64(os.Getpagesize()) / (1 << 20)
}
