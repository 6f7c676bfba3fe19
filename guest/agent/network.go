package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
	"golang.org/x/sys/unix"
)

// UpdateInterface finds the interface with the hardware address, names it, sets
// MTU and addresses and brings it up.
func (s *Server) UpdateInterface(_ context.Context, req *agentpb.UpdateInterfaceRequest) (*agentpb.Interface, error) {
	in := req.GetInterface()
	hw, err := net.ParseMAC(in.GetHwAddr())
	if err != nil {
		return nil, invalid("hardware address %q", in.GetHwAddr())
	}
	var prefixes []netip.Prefix
	for _, a := range in.GetIPAddresses() {
		p, err := netip.ParsePrefix(a.GetAddress() + "/" + a.GetMask())
		if err != nil {
			return nil, invalid("address %q", a.GetAddress())
		}
		prefixes = append(prefixes, p)
	}
	s.netMu.Lock()
	defer s.netMu.Unlock()
	c, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	link, err := findLink(c, func(l rtnetlink.Link) bool { return !l.Loopback && l.HWAddr.String() == hw.String() })
	if err != nil {
		return nil, invalid("no interface has the hardware address %s", hw)
	}
	if err := configureLink(c, link, in, prefixes); err != nil {
		return nil, err
	}
	s.podAddrs = append(s.podAddrs, prefixes...)
	return in, nil
}

func configureLink(c *rtnetlink.Conn, link rtnetlink.Link, in *agentpb.Interface, prefixes []netip.Prefix) error {
	if in.GetName() != "" && in.GetName() != link.Name {
		if link.Up {
			if err := c.SetUp(link.Index, false); err != nil {
				return err
			}
		}
		if err := makeRoom(c, in.GetName()); err != nil {
			return err
		}
		if err := c.Rename(link.Index, in.GetName()); err != nil {
			return err
		}
	}
	if in.GetMtu() != 0 {
		if err := c.SetMTU(link.Index, uint32(in.GetMtu())); err != nil {
			return err
		}
	}
	for _, p := range prefixes {
		if err := c.AddAddress(rtnetlink.Address{Index: link.Index, Prefix: p}); err != nil {
			return err
		}
	}
	return c.SetUp(link.Index, true)
}

// makeRoom takes a name from the interface that has it: the kernel names cards as it finds
// them, in no order. Its own name comes with its own UpdateInterface.
func makeRoom(c *rtnetlink.Conn, name string) error {
	other, err := findLink(c, func(l rtnetlink.Link) bool { return !l.Loopback && l.Name == name })
	if err != nil {
		return nil // nobody has it
	}
	if other.Up {
		if err := c.SetUp(other.Index, false); err != nil {
			return err
		}
	}
	return c.Rename(other.Index, fmt.Sprintf("unnamed%d", other.Index))
}

func findLink(c *rtnetlink.Conn, match func(rtnetlink.Link) bool) (rtnetlink.Link, error) {
	links, err := c.Links()
	if err != nil {
		return rtnetlink.Link{}, err
	}
	for _, l := range links {
		if match(l) {
			return l, nil
		}
	}
	return rtnetlink.Link{}, fmt.Errorf("no such interface")
}

// UpdateRoutes replaces every route that is not the kernel's own.
func (s *Server) UpdateRoutes(_ context.Context, req *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	s.netMu.Lock()
	defer s.netMu.Unlock()
	c, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	var want []rtnetlink.Route
	for i, r := range req.GetRoutes().GetRoutes() {
		route, err := parseRoute(r, links)
		if err != nil {
			return nil, invalid("routes[%d]: %v", i, err)
		}
		want = append(want, *route)
	}
	addresses, err := c.Addresses()
	if err != nil {
		return nil, err
	}
	for _, v6 := range []bool{false, true} {
		have, err := c.Routes(v6)
		if err != nil {
			return nil, err
		}
		for _, r := range have {
			if kernels(&r, addresses) {
				continue
			}
			if err := c.DeleteRoute(&r); err != nil {
				return nil, err
			}
		}
	}
	// Routes without a gateway first: the others need them to reach theirs.
	for _, direct := range []bool{true, false} {
		for i := range want {
			if want[i].Gateway.IsValid() == direct {
				continue
			}
			if err := c.AddRoute(&want[i]); err != nil {
				return nil, fmt.Errorf("routes[%d]: %w", i, err)
			}
		}
	}
	return req.GetRoutes(), nil
}

// kernels says whether a route is the kernel's own, to the network of an interface's
// address. A library OS's routes do not say who made them.
func kernels(r *rtnetlink.Route, addresses []rtnetlink.Address) bool {
	if r.Protocol != unix.RTPROT_UNSPEC || r.Gateway.IsValid() {
		return r.Protocol == unix.RTPROT_KERNEL
	}
	return slices.ContainsFunc(addresses, func(a rtnetlink.Address) bool { return a.Index == r.Index && a.Prefix.Masked() == r.Dest.Masked() })
}

func parseRoute(r *agentpb.Route, links []rtnetlink.Link) (*rtnetlink.Route, error) {
	out := &rtnetlink.Route{V6: r.GetFamily() == agentpb.IPFamily_v6, Scope: uint8(r.GetScope()), Flags: r.GetFlags(), MTU: r.GetMtu()}
	for _, l := range links {
		if l.Name == r.GetDevice() {
			out.Index = l.Index
		}
	}
	if out.Index == 0 {
		return nil, fmt.Errorf("no interface %q", r.GetDevice())
	}
	var err error
	if d := r.GetDest(); d != "" && d != "default" {
		if !strings.Contains(d, "/") {
			return nil, fmt.Errorf("destination %q is not a network", d)
		}
		if out.Dest, err = netip.ParsePrefix(d); err != nil {
			return nil, fmt.Errorf("destination: %w", err)
		}
	}
	if g := r.GetGateway(); g != "" {
		if out.Gateway, err = netip.ParseAddr(g); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	if a := r.GetSource(); a != "" {
		if out.Source, err = netip.ParseAddr(a); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	return out, nil
}

// ListInterfaces lists every interface with its addresses.
func (s *Server) ListInterfaces(context.Context, *agentpb.ListInterfacesRequest) (*agentpb.Interfaces, error) {
	c, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	addrs, err := c.Addresses()
	if err != nil {
		return nil, err
	}
	out := &agentpb.Interfaces{}
	for _, l := range links {
		i := &agentpb.Interface{Device: l.Name, Name: l.Name, Mtu: uint64(l.MTU), HwAddr: l.HWAddr.String()}
		for _, a := range addrs {
			if a.Index != l.Index {
				continue
			}
			fam := agentpb.IPFamily_v4
			if a.Prefix.Addr().Is6() {
				fam = agentpb.IPFamily_v6
			}
			i.IPAddresses = append(i.IPAddresses, &agentpb.IPAddress{Family: fam, Address: a.Prefix.Addr().String(), Mask: strconv.Itoa(a.Prefix.Bits())})
		}
		out.Interfaces = append(out.Interfaces, i)
	}
	return out, nil
}

// ListRoutes lists the main routing tables.
func (s *Server) ListRoutes(context.Context, *agentpb.ListRoutesRequest) (*agentpb.Routes, error) {
	c, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	out := &agentpb.Routes{}
	for _, v6 := range []bool{false, true} {
		routes, err := c.Routes(v6)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			o := &agentpb.Route{Device: names[r.Index], Scope: uint32(r.Scope), Flags: r.Flags}
			if v6 {
				o.Family = agentpb.IPFamily_v6
			}
			if r.Dest.IsValid() {
				o.Dest = r.Dest.String()
			}
			if r.Gateway.IsValid() {
				o.Gateway = r.Gateway.String()
			}
			if r.Source.IsValid() {
				o.Source = r.Source.String()
			}
			out.Routes = append(out.Routes, o)
		}
	}
	return out, nil
}

// AddARPNeighbors adds permanent neighbours.
func (s *Server) AddARPNeighbors(_ context.Context, req *agentpb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	s.netMu.Lock()
	defer s.netMu.Unlock()
	c, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i, n := range req.GetNeighbors().GetARPNeighbors() {
		ip, err := netip.ParseAddr(n.GetToIPAddress().GetAddress())
		if err != nil {
			return nil, invalid("neighbors[%d]: address", i)
		}
		hw, err := net.ParseMAC(n.GetLladdr())
		if err != nil {
			return nil, invalid("neighbors[%d]: hardware address", i)
		}
		link, err := findLink(c, func(l rtnetlink.Link) bool { return l.Name == n.GetDevice() })
		if err != nil {
			return nil, invalid("neighbors[%d]: no interface %q", i, n.GetDevice())
		}
		if err := c.AddNeighbor(link.Index, ip, hw); err != nil {
			return nil, err
		}
	}
	return &emptypb.Empty{}, nil
}
