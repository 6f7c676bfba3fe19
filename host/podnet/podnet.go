// Package podnet joins the guest to its pod's network: for each interface that
// CNI has put into the pod's network namespace it makes a tap and has the kernel
// redirect every packet between the two (tc, u32 filter, mirred), so that the
// guest's card takes the interface's place, hardware address included
// (shared/spec/kata.md section 1.6, "tcfilter"). Addresses, routes and permanent
// neighbours are read and go to the guest agent.
//
// Rules on the host's side of the pod's veth (NetworkPolicy) hold as before:
// packets pass there as they do for any container.
//
// Trust zone: host. The network carries every packet of the guest and is never
// trusted by it.
package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/agentpb"
)

// Interface is one interface of the pod.
type Interface struct {
	Name, MAC string
	MTU       int
	Addresses []netip.Prefix
	Tap       *os.File // what is written to it, the guest is to receive; nil: Describe
}

// Network is a pod's network.
type Network struct {
	Interfaces []Interface
	Routes     []*agentpb.Route
	Neighbors  []*agentpb.ARPNeighbor
}

// Close closes the taps; the kernel removes the interfaces with them.
func (n *Network) Close() {
	for _, i := range n.Interfaces {
		if i.Tap != nil {
			_ = i.Tap.Close()
		}
	}
}

// Connect makes the taps in the network namespace at path and gives what the
// guest is to set up. On error nothing is left behind.
func Connect(path string) (*Network, error) {
	return inside(path, func(h *netlink.Handle, l netlink.Link, i *Interface, index int) (err error) {
		name := fmt.Sprintf("coffer%d", index)
		if i.Tap, err = openTap(name); err != nil {
			return err
		}
		if err := redirect(h, l, name, i.MTU); err != nil {
			return errors.Join(err, i.Tap.Close())
		}
		return nil
	})
}

// Describe gives what the guest is to set up and makes nothing: for a guest that
// takes the namespace's interfaces themselves. Its runtime copies the neighbours.
func Describe(path string) (*Network, error) {
	n, err := inside(path, func(*netlink.Handle, netlink.Link, *Interface, int) error { return nil })
	if err == nil {
		n.Neighbors = nil
	}
	return n, err
}

// attach makes the guest's way to an interface.
type attach func(h *netlink.Handle, l netlink.Link, i *Interface, index int) error

func inside(path string, attach attach) (*Network, error) {
	type result struct {
		n   *Network
		err error
	}
	done := make(chan result, 1)
	go func() {
		// The thread stays in the pod's namespace and ends with this goroutine,
		// since it is never unlocked.
		runtime.LockOSThread()
		n, err := connect(path, attach)
		done <- result{n, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("joining the pod's network %s: %w", path, r.err)
	}
	return r.n, nil
}

func connect(path string, attach attach) (*Network, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return nil, fmt.Errorf("entering it: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	n := &Network{}
	names := map[int]string{}
	for _, l := range links {
		if !carries(l) {
			continue
		}
		i, err := describe(h, l)
		if err == nil {
			err = attach(h, l, i, len(n.Interfaces))
		}
		if err != nil {
			n.Close()
			return nil, fmt.Errorf("interface %s: %w", l.Attrs().Name, err)
		}
		names[l.Attrs().Index] = i.Name
		n.Interfaces = append(n.Interfaces, *i)
	}
	if err := n.read(h, names); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// carries tells the interfaces that a pod has from those that a fresh namespace
// has: an Ethernet interface that is up.
func carries(l netlink.Link) bool {
	a := l.Attrs()
	return a.EncapType == "ether" && a.Flags&unix.IFF_LOOPBACK == 0 && a.RawFlags&unix.IFF_UP != 0 && l.Type() != "tuntap" && l.Type() != "tun" && len(a.HardwareAddr) == 6
}

func describe(h *netlink.Handle, l netlink.Link) (*Interface, error) {
	a := l.Attrs()
	out := &Interface{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU}
	addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, x := range addrs {
		ip, ok := netip.AddrFromSlice(x.IP)
		bits, _ := x.Mask.Size()
		if ip = ip.Unmap(); !ok || ip.IsLinkLocalUnicast() && ip.Is6() {
			continue // the guest makes its own, of the same hardware address
		}
		out.Addresses = append(out.Addresses, netip.PrefixFrom(ip, bits))
	}
	return out, nil
}

// openTap makes a tap in this thread's network namespace, that lasts as long as
// its descriptor.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("making the tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// redirect has every packet that arrives at one of the two leave by the other.
func redirect(h *netlink.Handle, l netlink.Link, tapName string, mtu int) error {
	tap, err := h.LinkByName(tapName)
	if err != nil {
		return fmt.Errorf("finding the tap: %w", err)
	}
	if err := h.LinkSetMTU(tap, mtu); err != nil {
		return fmt.Errorf("setting the tap's MTU: %w", err)
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("bringing the tap up: %w", err)
	}
	for _, pair := range [][2]netlink.Link{{l, tap}, {tap, l}} {
		from, to := pair[0].Attrs(), pair[1].Attrs()
		ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: from.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
		}}
		// One of an earlier guest's leads to a tap that is gone.
		if err := h.QdiscDel(ingress); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing the old ingress queue of %s: %w", from.Name, err)
		}
		if err := h.QdiscAdd(ingress); err != nil {
			return fmt.Errorf("adding the ingress queue of %s: %w", from.Name, err)
		}
		// u32 with a key that matches everything: matchall is missing in some kernels.
		filter := &netlink.U32{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
			Actions: []netlink.Action{&netlink.MirredAction{
				ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
				MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: to.Index,
			}},
		}
		if err := h.FilterReplace(filter); err != nil {
			return fmt.Errorf("redirecting %s: %w", from.Name, err)
		}
	}
	return nil
}

// read takes the routes and permanent neighbours that CNI has set.
func (n *Network) read(h *netlink.Handle, names map[int]string) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteList(nil, family)
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		for i := range routes {
			if out := route(&routes[i], family, names); out != nil {
				n.Routes = append(n.Routes, out)
			}
		}
		neighbors, err := h.NeighList(0, family)
		if err != nil {
			return fmt.Errorf("listing neighbours: %w", err)
		}
		for _, x := range neighbors {
			if name := names[x.LinkIndex]; name != "" && x.State == unix.NUD_PERMANENT && len(x.HardwareAddr) == 6 && !x.IP.IsMulticast() {
				n.Neighbors = append(n.Neighbors, &agentpb.ARPNeighbor{
					ToIPAddress: &agentpb.IPAddress{Family: ipFamily(family), Address: x.IP.String()},
					Device:      name, Lladdr: x.HardwareAddr.String(), State: unix.NUD_PERMANENT,
				})
			}
		}
	}
	return nil
}

// route gives r for the guest; nil for those that its kernel makes by itself.
func route(r *netlink.Route, family int, names map[int]string) *agentpb.Route {
	name := names[r.LinkIndex]
	if name == "" || r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
		return nil
	}
	out := &agentpb.Route{Device: name, Family: ipFamily(family), Scope: uint32(r.Scope), Mtu: uint32(r.MTU)}
	if r.Flags&int(netlink.FLAG_ONLINK) != 0 {
		out.Flags = unix.RTNH_F_ONLINK
	}
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			out.Dest = r.Dst.String()
		}
	}
	if r.Gw != nil {
		out.Gateway = r.Gw.String()
	}
	if r.Src != nil {
		out.Source = r.Src.String()
	}
	return out
}

func ipFamily(family int) agentpb.IPFamily {
	if family == netlink.FAMILY_V6 {
		return agentpb.IPFamily_v6
	}
	return agentpb.IPFamily_v4
}
