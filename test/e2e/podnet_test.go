package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/cofferproject/coffer/test/child"
)

var networks atomic.Int32

// podNetwork makes what CNI makes: a network namespace, by its path, with an eth0 whose
// other end has the address node on this machine.
func podNetwork(t *testing.T) (path, node string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Names and addresses of its own for each pod of each process that runs these tests.
	n := networks.Add(1)
	host := fmt.Sprintf("cof%dx%d", os.Getpid(), n)
	subnet := fmt.Sprintf("10.%d.%d.", 211+n%32, os.Getpid()%256)
	node = subnet + "1"
	// The thread that enters a namespace ends with its goroutine.
	inThread := func(f func() error) {
		t.Helper()
		errc := make(chan error, 1)
		go func() { runtime.LockOSThread(); errc <- f() }()
		if err := <-errc; err != nil {
			t.Fatal(err)
		}
	}
	inThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	pod, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host, MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(pod))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := up(host, node+"/24"); err != nil {
		t.Fatal(err)
	}
	inThread(func() error {
		if err := netns.Set(pod); err != nil {
			return err
		}
		if err := errors.Join(up("lo", ""), up("eth0", subnet+"2/24")); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(node)})
	})
	return path, node
}

func up(name, address string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if address == "" { // the kernel gives lo its own
		return netlink.LinkSetUp(l)
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
}

// mirrorAt serves the stand-in images at an address of this machine and gives the
// registries.conf that leads there.
func (e *env) mirrorAt(t *testing.T, host string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(e.bin, "test-mirror"), "--layouts", os.Getenv("COFFER_STANDINS"), "--listen", host+":0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var ready struct{ Registries string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		t.Fatalf("starting the mirror: %v", err)
	}
	return write(t, t.TempDir(), "registries.conf", ready.Registries)
}

// annotationsOf gives the annotations of a manifest's pod.
func annotationsOf(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	return p.Metadata.Annotations
}
