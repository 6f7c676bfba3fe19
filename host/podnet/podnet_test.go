package podnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/agentpb"
)

// onThread runs f on a thread that is thrown away afterwards.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		errc <- f()
	}()
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
}

// inNamespace runs f in the network namespace at path.
func inNamespace(t *testing.T, path string, f func() error) {
	t.Helper()
	onThread(t, func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// link is an interface that CNI makes: a veth whose other end, host, is the node's.
type link struct {
	name, host, mac string
	mtu             int
	addresses       []string
}

// addLink makes l from the node's namespace into the pod's, sets its addresses and
// both ends up.
func addLink(t *testing.T, pod, node string, l link) {
	t.Helper()
	inNamespace(t, node, func() error {
		target, err := netns.GetFromPath(pod)
		if err != nil {
			return err
		}
		defer target.Close()
		mac, err := net.ParseMAC(l.mac)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: l.host, MTU: l.mtu}, PeerName: l.name, PeerHardwareAddr: mac, PeerMTU: uint32(l.mtu), PeerNamespace: netlink.NsFd(int(target))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
	inNamespace(t, pod, func() error {
		end, err := netlink.LinkByName(l.name)
		if err != nil {
			return err
		}
		for _, a := range l.addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(end, addr); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return netlink.LinkSetUp(end)
	})
}

// podNamespace makes what CNI makes: a namespace with eth0, whose other end is in
// a namespace of the node's; and gives both as paths.
func podNamespace(t *testing.T) (pod, node string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: it must run as root")
	}
	dir := t.TempDir()
	pod, node = filepath.Join(dir, "pod"), filepath.Join(dir, "node")
	for _, p := range []string{pod, node} {
		onThread(t, func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), p, "", unix.MS_BIND, "")
		})
		t.Cleanup(func() { _ = unix.Unmount(p, unix.MNT_DETACH) })
	}
	addLink(t, pod, node, link{"eth0", "host0", "02:42:0a:58:00:02", 1400, []string{"10.88.0.2/24", "fd00:88::2/64"}})
	inNamespace(t, pod, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, v4, _ := net.ParseCIDR("0.0.0.0/0")
		for _, r := range []*netlink.Route{
			{LinkIndex: eth0.Attrs().Index, Dst: v4, Gw: net.ParseIP("10.88.0.1")},
			{LinkIndex: eth0.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP("10.99.0.1").To4(), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK},
		} {
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("route: %w", err)
			}
		}
		hw, _ := net.ParseMAC("02:42:0a:58:00:01")
		return netlink.NeighAdd(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("10.88.0.1"), HardwareAddr: hw})
	})
	return pod, node
}

func TestConnectReadsWhatCNIHasSet(t *testing.T) {
	pod, _ := podNamespace(t)
	n, err := Connect(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if len(n.Interfaces) != 1 {
		t.Fatalf("%d interfaces, want eth0 alone: %+v", len(n.Interfaces), n.Interfaces)
	}
	i := n.Interfaces[0]
	if i.Name != "eth0" || i.MAC != "02:42:0a:58:00:02" || i.MTU != 1400 || fmt.Sprint(i.Addresses) != "[10.88.0.2/24 fd00:88::2/64]" {
		t.Errorf("%+v", i)
	}
	got := map[string]*agentpb.Route{}
	for _, r := range n.Routes {
		got[r.Dest] = r
	}
	if len(n.Routes) != 2 || got[""] == nil || got[""].Gateway != "10.88.0.1" || got["10.99.0.1/32"] == nil || got["10.99.0.1/32"].Scope != 253 {
		t.Errorf("routes %v", n.Routes)
	}
	if len(n.Neighbors) != 1 || n.Neighbors[0].Lladdr != "02:42:0a:58:00:01" || n.Neighbors[0].ToIPAddress.Address != "10.88.0.1" {
		t.Errorf("neighbours %v", n.Neighbors)
	}
}

// TestDescribe: the same facts, and nothing made.
func TestDescribe(t *testing.T) {
	pod, _ := podNamespace(t)
	n, err := Describe(pod)
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	if len(n.Interfaces) != 1 || n.Interfaces[0].Tap != nil || fmt.Sprint(n.Interfaces[0].Addresses) != "[10.88.0.2/24 fd00:88::2/64]" || len(n.Routes) != 2 || len(n.Neighbors) != 0 {
		t.Errorf("%+v", n)
	}
	inNamespace(t, pod, func() error {
		links, err := netlink.LinkList()
		if err == nil && len(links) != 2 {
			err = fmt.Errorf("%d interfaces, want lo and eth0", len(links))
		}
		return err
	})
}

// vnetHeader precedes each frame on a tap with IFF_VNET_HDR.
const vnetHeader = 10

// TestPacketsCross sends a frame from the guest's side to the node's and back.
func TestPacketsCross(t *testing.T) {
	pod, node := podNamespace(t)
	n, err := Connect(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var sock int
	inNamespace(t, node, func() error {
		l, err := netlink.LinkByName("host0")
		if err != nil {
			return err
		}
		proto := binary.BigEndian.Uint16([]byte{0x88, 0xb5})
		order := make([]byte, 2)
		binary.NativeEndian.PutUint16(order, proto)
		network := binary.BigEndian.Uint16(order)
		if sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(network)); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			return err
		}
		return unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: network, Ifindex: l.Attrs().Index})
	})
	defer unix.Close(sock)
	frame := func(text string) []byte { // EtherType 0x88b5 is for local experiments
		return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x42, 10, 0x58, 0, 2, 0x88, 0xb5}, (text + string(make([]byte, 60)))[:60]...)
	}
	if _, err := n.Interfaces[0].Tap.Write(append(make([]byte, vnetHeader), frame("from the guest")...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	k, _, err := unix.Recvfrom(sock, buf, 0)
	if err != nil || !bytes.Equal(buf[:k], frame("from the guest")) {
		t.Fatalf("the node got %x, %v", buf[:max(k, 0)], err)
	}
	if _, err := unix.Write(sock, frame("to the guest")); err != nil {
		t.Fatal(err)
	}
	fd := int(n.Interfaces[0].Tap.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		k, err := unix.Read(fd, buf)
		if err == nil && k > vnetHeader && bytes.Equal(buf[vnetHeader:k], frame("to the guest")) {
			return
		}
	}
	t.Fatal("the guest's card got nothing")
}

func TestConnectFailsClean(t *testing.T) {
	if _, err := Connect(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a namespace that is not there")
	}
	pod, _ := podNamespace(t)
	first, err := Connect(pod)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Connect(pod); err == nil { // the tap's name is taken
		second.Close()
		t.Error("a second guest got the same pod's network")
	}
	first.Close()
	again, err := Connect(pod)
	if err != nil {
		t.Fatalf("after the first guest's end: %v", err)
	}
	again.Close()
}
