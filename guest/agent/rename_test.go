package agent

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
)

// The kernel's names of the cards are another order than the pod's.
func TestCardsThatHaveEachOthersNames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("ip", "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "eth1", "address", "02:00:00:00:00:02").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	macs := []string{"02:00:00:00:00:01", "02:00:00:00:00:02"}
	s := New(nil)
	for i, name := range []string{"eth1", "eth0"} {
		mac := macs[i]
		if _, err := s.UpdateInterface(t.Context(), &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{Name: name, HwAddr: mac}}); err != nil {
			t.Fatalf("%s, for %s: %v", name, mac, err)
		}
	}
	c, err := rtnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, want := range []string{"eth1", "eth0"} {
		l, err := findLink(c, func(l rtnetlink.Link) bool { return l.HWAddr.String() == macs[i] })
		if err != nil || l.Name != want {
			t.Errorf("%s is %q (%v), want %s", macs[i], l.Name, err, want)
		}
	}
}
