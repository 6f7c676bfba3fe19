package podnet

import (
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// addSecondNetwork gives the pod what a second CNI network with both families
// does: net1, and by eth0 IPv6's default route and a permanent neighbour.
func addSecondNetwork(t *testing.T, pod, node string) {
	t.Helper()
	addLink(t, pod, node, link{"net1", "host1", "02:42:0a:59:00:02", 9000, []string{"10.89.0.2/24", "fd00:89::2/64"}})
	inNamespace(t, pod, func() error {
		net1, err := netlink.LinkByName("net1")
		if err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("::/0")
		_, far, _ := net.ParseCIDR("fd00:99::/48")
		for _, r := range []*netlink.Route{
			{LinkIndex: eth0.Attrs().Index, Dst: all, Gw: net.ParseIP("fd00:88::1")},
			{LinkIndex: net1.Attrs().Index, Dst: far, Gw: net.ParseIP("fd00:89::1")},
		} {
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("route %v: %w", r.Dst, err)
			}
		}
		hw, _ := net.ParseMAC("02:42:0a:58:00:01")
		return netlink.NeighAdd(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("fd00:88::1"), HardwareAddr: hw})
	})
}

func TestConnectTakesEveryInterfaceAndBothFamilies(t *testing.T) {
	pod, node := podNamespace(t)
	addSecondNetwork(t, pod, node)
	n, err := Connect(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	got := map[string]string{}
	for _, i := range n.Interfaces {
		got[i.Name] = fmt.Sprint(i.MAC, " ", i.MTU, " ", i.Addresses)
	}
	if len(got) != 2 || got["eth0"] != "02:42:0a:58:00:02 1400 [10.88.0.2/24 fd00:88::2/64]" || got["net1"] != "02:42:0a:59:00:02 9000 [10.89.0.2/24 fd00:89::2/64]" {
		t.Errorf("interfaces %v", got)
	}
	routes := map[string]int{}
	for _, r := range n.Routes {
		routes[fmt.Sprint(r.Family, " ", r.Dest, " ", r.Gateway, " ", r.Device)]++
	}
	for _, want := range []string{"v4  10.88.0.1 eth0", "v6  fd00:88::1 eth0", "v6 fd00:99::/48 fd00:89::1 net1"} {
		if routes[want] != 1 {
			t.Errorf("no route %q in %v", want, routes)
		}
	}
	neighbours := map[string]string{}
	for _, x := range n.Neighbors {
		neighbours[x.ToIPAddress.Address] = fmt.Sprint(x.Device, " ", x.Lladdr)
	}
	if len(neighbours) != 2 || neighbours["fd00:88::1"] != "eth0 02:42:0a:58:00:01" {
		t.Errorf("neighbours %v", neighbours)
	}
}
