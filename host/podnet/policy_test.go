package podnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guestDatagram is a frame of a UDP datagram from the guest at 10.88.0.2 to
// 10.90.0.2 behind the node, as it is written to a tap.
func guestDatagram(node net.HardwareAddr, text string) []byte {
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 88, 0, 2, 10, 90, 0, 2}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(text)))
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := []byte{0x10, 0, 0x10, 0, 0, byte(8 + len(text)), 0, 0}
	eth := append(append([]byte{}, node...), 2, 0x42, 10, 0x58, 0, 2, 8, 0)
	return bytes.Join([][]byte{make([]byte, vnetHeader), eth, ip, udp, []byte(text)}, nil)
}

// TestForwardRulesOfTheNodeBite writes a guest's datagrams to the tap and looks
// at what leaves the node on its other side, with and without a rule in the
// node's FORWARD chain, as a NetworkPolicy's are.
func TestForwardRulesOfTheNodeBite(t *testing.T) {
	pod, node := podNamespace(t)
	n, err := Connect(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	inNamespace(t, node, func() error {
		host0, err := netlink.LinkByName("host0")
		if err != nil {
			return err
		}
		far := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "far0"}, PeerName: "far1"}
		if err := netlink.LinkAdd(far); err != nil {
			return fmt.Errorf("far0: %w", err)
		}
		far1, err := netlink.LinkByName("far1")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(far1); err != nil {
			return err
		}
		for l, a := range map[netlink.Link]string{host0: "10.88.0.1/24", far: "10.90.0.1/24"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l)); err != nil {
				return err
			}
		}
		err = netlink.NeighAdd(&netlink.Neigh{LinkIndex: far.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("10.90.0.2"), HardwareAddr: far1.Attrs().HardwareAddr})
		if err != nil {
			return fmt.Errorf("the far neighbour: %w", err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		defer unix.Close(sock)
		if err := unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: far.Attrs().Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
			return err
		}
		arrives := func(text string) (bool, error) {
			if _, err := n.Interfaces[0].Tap.Write(guestDatagram(host0.Attrs().HardwareAddr, text)); err != nil {
				return false, err
			}
			buf := make([]byte, 2048)
			for range 50 { // there may be others, of the interface's own start
				k, _, err := unix.Recvfrom(sock, buf, 0)
				if errors.Is(err, unix.EAGAIN) {
					return false, nil
				} else if err != nil {
					return false, err
				}
				if bytes.HasSuffix(buf[:k], []byte(text)) {
					return true, nil
				}
			}
			return false, nil
		}
		for _, step := range []struct {
			change string
			want   bool
		}{{"", true}, {"-A", false}, {"-D", true}} {
			if step.change != "" {
				out, err := exec.Command("iptables", step.change, "FORWARD", "-i", "host0", "-p", "udp", "--dport", "4096", "-j", "DROP").CombinedOutput()
				if err != nil {
					return fmt.Errorf("iptables %s: %w: %s", step.change, err, out)
				}
			}
			got, err := arrives("after rule " + step.change)
			if err != nil {
				return err
			}
			if got != step.want {
				return fmt.Errorf("after %q of the rule the datagram arrived: %t, want %t", step.change, got, step.want)
			}
		}
		return nil
	})
}
