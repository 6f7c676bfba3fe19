package kube

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
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
	for i := range runs {
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
			k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
		}
		k.nothingLeft(t)
	}
	for class, s := range times {
		t.Logf("%-16s apply to Ready, seconds: %s", class, spread(s))
	}
	t.Logf("shim's CPU of a start, milliseconds: %s", spread(cpu))
	t.Logf("shim's resident memory, MiB: %s", spread(rss))
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
	f := strings.Fields(k.must(t, "cat", "/proc/"+pid+"/stat")) // the name has no space
	for _, at := range []int{13, 14} {
		n, err := strconv.ParseFloat(f[at], 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += n * 10 // ticks of 10 ms
	}
	pages, err := strconv.ParseFloat(f[23], 64)
	if err != nil {
		t.Fatal(err)
	}
	return cpu, pages * float64(os.Getpagesize()) / (1 << 20)
}
