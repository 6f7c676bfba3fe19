package kube

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestKilled: whatever is killed, the pod comes back or goes on, and nothing stays
// behind.
func TestKilled(t *testing.T) {
	k := cluster
	path, _ := k.seal(t, "tpm-sim", simple("killed", "coffer-tpm-sim", "n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.5; done"))
	k.apply(t, path)
	k.ready(t, "killed")
	restarts := func() string {
		out, _ := k.in("kubectl", "get", "pod", "killed", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		return strings.TrimSpace(out)
	}
	for i, victim := range []string{"coffer,process=coffer-qemu", "containerd-shim-coffer-v2 -namespace"} {
		pid, err := k.pid(victim)
		if err != nil {
			t.Fatal(err)
		}
		k.must(t, "kill", "-9", pid)
		want := fmt.Sprint(i + 1)
		eventually(t, "the pod's restart after "+victim+" was killed", func() (bool, string) { n := restarts(); return n == want, n })
		k.ready(t, "killed")
	}
	t.Run("containerd", func(t *testing.T) {
		pid, err := k.pid("bin/containerd --config")
		if err != nil {
			t.Fatal(err)
		}
		k.must(t, "kill", "-9", pid)
		k.must(t, "bash", "-c", "setsid containerd --config $RUN/containerd.toml >> $B/logs/containerd.log 2>&1 < /dev/null &")
		eventually(t, "log lines after containerd's restart", func() (bool, string) {
			before, err1 := k.in("kubectl", "logs", "killed", "--tail=1")
			after, err2 := k.in("bash", "-c", "sleep 2; kubectl logs killed --tail=1")
			return err1 == nil && err2 == nil && before != after && strings.Contains(after, "tick"), fmt.Sprint(before, after, err1, err2)
		})
		if n := restarts(); n != "2" {
			t.Errorf("the pod was restarted %s times, want the two from before", n)
		}
	})
	k.must(t, "kubectl", "delete", "pod", "killed", "--timeout=90s")
	k.nothingLeft(t)
}

// TestOneAfterTheOther starts and deletes pods and looks for what they leave.
func TestOneAfterTheOther(t *testing.T) {
	k := cluster
	pods := 3
	if os.Getenv("COFFER_E2E_FULL") == "1" {
		pods = 200
	}
	for i := range pods {
		name := fmt.Sprintf("loop-%d", i)
		path, _ := k.seal(t, "tpm-sim", simple(name, "coffer-tpm-sim", "echo here; sleep 3600"))
		k.must(t, "kubectl", "apply", "-f", path)
		k.ready(t, name)
		k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
		k.nothingLeft(t)
	}
}
