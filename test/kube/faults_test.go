package kube

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKilled: whatever is killed, the pod comes back or goes on, and nothing stays
// behind.
func TestKilled(t *testing.T) { withEach(t, testKilled) }

func testKilled(t *testing.T, h holder) {
	k := cluster
	restarts := func(pod string) string {
		out, _ := k.in("kubectl", "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		return strings.TrimSpace(out)
	}
	// A pod for each, since a kubelet waits ever longer before it restarts one.
	for i, victim := range h.victims {
		name := fmt.Sprintf("killed-%s-%d", h.tee, i)
		k.must(t, "kill", "-9", k.ticking(t, h, name, victim))
		// A busy machine may need more than one.
		eventually(t, "the pod's restart after "+victim+" was killed", func() (bool, string) { n := restarts(name); return n != "" && n != "0", n })
		k.ready(t, name)
		before := restarts(name)
		if i == 0 {
			t.Run("containerd", func(t *testing.T) {
				k.killContainerd(t, name)
				if n := restarts(name); n != before {
					t.Errorf("the pod was restarted %s times, want the %s from before", n, before)
				}
			})
		}
		k.must(t, "kubectl", "delete", "pod", name, "--timeout=90s")
		k.nothingLeft(t)
	}
}

// ticking starts a pod whose log goes on, and finds the process that is to be its victim.
func (k *kube) ticking(t *testing.T, h holder, name, victim string) (pid string) {
	t.Helper()
	path, _ := k.seal(t, h.tee, simple(name, h.class, "n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.5; done"))
	k.apply(t, path)
	k.ready(t, name)
	pid, err := k.pid(victim)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestStandsStill deletes pods whose guest does not answer, and has containerd give up a
// shim that does not: nothing of them may stay. With COFFER_E2E_FULL=1 in a VM, too.
func TestStandsStill(t *testing.T) {
	k := cluster
	for _, h := range holders {
		if h.tee != "sgx-sim" && os.Getenv("COFFER_E2E_FULL") != "1" {
			continue
		}
		for what, victim := range map[string]string{"guest": h.process, "shim": shimProcess} {
			t.Run(h.tee+" "+what, func(t *testing.T) {
				name := "still-" + h.tee + "-" + what
				pid := k.ticking(t, h, name, victim)
				k.must(t, "kill", "-STOP", pid)
				if what == "shim" {
					k.killContainerd(t, name) // its log goes on: in a shim and a TEE of its own
				}
				began := time.Now()
				k.must(t, "kubectl", "delete", "pod", name, "--grace-period=1", "--timeout=150s")
				t.Logf("gone after %.0f s", time.Since(began).Seconds())
				k.nothingLeft(t)
				if _, err := k.in("kill", "-0", pid); err == nil {
					t.Errorf("process %s is still there", pid)
				}
			})
		}
	}
}

// killContainerd kills and restarts it, and waits until the pod's log goes on.
func (k *kube) killContainerd(t *testing.T, pod string) {
	t.Helper()
	pid, err := k.pid("^([^ ]*/)?containerd --config")
	if err != nil {
		t.Fatal(err)
	}
	k.must(t, "kill", "-9", pid)
	k.must(t, "bash", "-c", "setsid containerd --config $RUN/containerd.toml >> $B/logs/containerd.log 2>&1 < /dev/null &")
	eventually(t, "log lines after containerd's restart", func() (bool, string) {
		before, err1 := k.in("kubectl", "logs", pod, "--tail=1")
		after, err2 := k.in("bash", "-c", "sleep 2; kubectl logs "+pod+" --tail=1")
		return err1 == nil && err2 == nil && before != after && strings.Contains(after, "tick"), fmt.Sprint(before, after, err1, err2)
	})
}

// TestOneAfterTheOther starts and deletes pods: three of each holder, or 200 over all
// classes with COFFER_E2E_FULL=1, or COFFER_KUBE_PODS of each class. Nothing may stay.
func TestOneAfterTheOther(t *testing.T) {
	each, err := strconv.Atoi(os.Getenv("COFFER_KUBE_PODS"))
	if err != nil {
		each = 0
	}
	for _, c := range []struct {
		tee        string
		some, many int
	}{{"tpm-sim", 3, 30}, {"sgx-sim", 3, 100}, {"snp-sim", 0, 30}, {"tdx-sim", 0, 20}, {"cca-sim", 0, 20}} {
		pods := c.some
		if os.Getenv("COFFER_E2E_FULL") == "1" {
			pods = c.many
		}
		if each > 0 {
			pods = each
		}
		if pods > 0 {
			t.Run(c.tee, func(t *testing.T) { oneAfterTheOther(t, c.tee, pods) })
		}
	}
}

func oneAfterTheOther(t *testing.T, tee string, pods int) {
	k := cluster
	for i := range pods {
		name := fmt.Sprintf("loop-%d", i)
		path, _ := k.seal(t, tee, simple(name, classOf(tee), "echo here; sleep 3600"))
		k.must(t, "kubectl", "apply", "-f", path)
		k.ready(t, name)
		k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
		k.nothingLeft(t)
	}
}
