package podpolicy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// The network is the host's: it carries every packet. The grammar below only
// keeps the host away from loopback, where the guest's own services listen, and
// from changing anything once a container exists.

const maxAddresses = 32

type network struct {
	sealed        bool // a container exists
	hwAddrs       map[string]bool
	names         map[string]bool
	routes, neigh bool
}

func newNetwork() network { return network{hwAddrs: map[string]bool{}, names: map[string]bool{}} }

func (n *network) open(claim string) *denial.Denial {
	if n.sealed {
		return deny(OutOfOrder, claim, "requested now", "before the first container")
	}
	return nil
}

func (e *Enforcer) judgeInterface(r *agentpb.UpdateInterfaceRequest) (*Grant, *denial.Denial) {
	i := r.GetInterface()
	claim := fmt.Sprintf("interface[%s]", clip(i.GetName()))
	switch {
	case !ifNameRE.MatchString(i.GetName()) || i.Name == "lo":
		return nil, deny(NetworkDenied, claim+".name", i.GetName(), "the name of an interface other than lo")
	case i.Device != "" && (!ifNameRE.MatchString(i.Device) || i.Device == "lo"):
		return nil, deny(NetworkDenied, claim+".device", i.Device, "the name of an interface other than lo")
	case !macRE.MatchString(i.HwAddr) || strings.ContainsAny(i.HwAddr[1:2], "13579bdfBDF"):
		return nil, deny(NetworkDenied, claim+".hwAddr", i.HwAddr, "a unicast hardware address")
	case i.Mtu != 0 && (i.Mtu < 576 || i.Mtu > 65535):
		return nil, deny(NetworkDenied, claim+".mtu", fmt.Sprint(i.Mtu), "576 to 65535")
	case i.DevicePath != "" || i.RawFlags != 0:
		return nil, deny(NetworkDenied, claim+".devicePath", i.DevicePath, "no device path and no flags")
	case i.Type != "" && i.Type != "veth" && i.Type != "ethernet":
		return nil, deny(NetworkDenied, claim+".type", i.Type, "veth or ethernet")
	case len(i.IPAddresses) > maxAddresses:
		return nil, deny(NetworkDenied, claim+".IPAddresses", fmt.Sprint(len(i.IPAddresses)), fmt.Sprintf("at most %d", maxAddresses))
	}
	for n, a := range i.IPAddresses {
		addr, ok := unicast(a.GetAddress(), a.GetFamily())
		bits, err := strconv.Atoi(a.GetMask())
		if !ok || err != nil || bits < 1 || bits > addr.BitLen() || strconv.Itoa(bits) != a.Mask {
			return nil, deny(NetworkDenied, fmt.Sprintf("%s.IPAddresses[%d]", claim, n), a.GetAddress()+"/"+a.GetMask(), "a unicast address and its prefix length")
		}
	}
	if d := e.net.open(claim); d != nil {
		return nil, d
	}
	mac := strings.ToLower(i.HwAddr)
	if e.net.hwAddrs[mac] || e.net.names[i.Name] {
		return nil, deny(Replayed, claim, "configured again", "once")
	}
	name := i.Name
	e.net.hwAddrs[mac], e.net.names[name] = true, true
	return &Grant{rollback: e.locked(func() { delete(e.net.hwAddrs, mac); delete(e.net.names, name) })}, nil
}

// unicast parses an address an interface, a gateway or a neighbour may have.
func unicast(s string, family agentpb.IPFamily) (netip.Addr, bool) {
	a, ok := hostAddr(s)
	if !ok || !unicastAddr(a) {
		return a, false
	}
	return a, a.Is4() == (family == agentpb.IPFamily_v4) && a.Is6() == (family == agentpb.IPFamily_v6)
}

func (e *Enforcer) judgeRoutes(r *agentpb.UpdateRoutesRequest) (*Grant, *denial.Denial) {
	routes := r.GetRoutes().GetRoutes()
	if len(routes) > 256 {
		return nil, deny(NetworkDenied, "routes", fmt.Sprint(len(routes)), "at most 256")
	}
	for n, route := range routes {
		if d := judgeRoute(route, fmt.Sprintf("routes[%d]", n)); d != nil {
			return nil, d
		}
	}
	if d := e.net.open("routes"); d != nil {
		return nil, d
	}
	if e.net.routes {
		return nil, deny(Replayed, "routes", "set again", "once")
	}
	e.net.routes = true
	return &Grant{rollback: e.locked(func() { e.net.routes = false })}, nil
}

func judgeRoute(r *agentpb.Route, claim string) *denial.Denial {
	switch {
	case !ifNameRE.MatchString(r.GetDevice()) || r.Device == "lo":
		return deny(NetworkDenied, claim+".device", r.GetDevice(), "the name of an interface other than lo")
	case r.Family != agentpb.IPFamily_v4 && r.Family != agentpb.IPFamily_v6:
		return deny(NetworkDenied, claim+".family", r.Family.String(), "v4 or v6")
	case r.Scope != 0 && r.Scope != 200 && r.Scope != 253: // universe, site, link
		return deny(NetworkDenied, claim+".scope", fmt.Sprint(r.Scope), "universe, site or link")
	case r.Flags != 0 && r.Flags != 4: // RTNH_F_ONLINK
		return deny(NetworkDenied, claim+".flags", fmt.Sprint(r.Flags), "none or onlink")
	case r.Mtu != 0 && (r.Mtu < 576 || r.Mtu > 65535):
		return deny(NetworkDenied, claim+".mtu", fmt.Sprint(r.Mtu), "576 to 65535")
	}
	if r.Dest != "" && r.Dest != "default" {
		p, err := netip.ParsePrefix(r.Dest)
		// A wider network than loopback does not take loopback away: the
		// kernel's table of local addresses comes first.
		if err != nil || p.Masked().String() != r.Dest || p.Addr().Is4In6() || p.Addr().Is4() != (r.Family == agentpb.IPFamily_v4) || p.Addr().IsLoopback() {
			return deny(NetworkDenied, claim+".dest", r.Dest, "a network other than loopback")
		}
	}
	for _, a := range []struct{ name, s string }{{"gateway", r.Gateway}, {"source", r.Source}} {
		if _, ok := unicast(a.s, r.Family); a.s != "" && !ok {
			return deny(NetworkDenied, claim+"."+a.name, a.s, "a unicast address of the route's family")
		}
	}
	return nil
}

func (e *Enforcer) judgeNeighbors(r *agentpb.AddARPNeighborsRequest) (*Grant, *denial.Denial) {
	all := r.GetNeighbors().GetARPNeighbors()
	if len(all) > 256 {
		return nil, deny(NetworkDenied, "neighbors", fmt.Sprint(len(all)), "at most 256")
	}
	for n, a := range all {
		claim := fmt.Sprintf("neighbors[%d]", n)
		to := a.GetToIPAddress()
		_, ok := unicast(to.GetAddress(), to.GetFamily())
		if !ok || !macRE.MatchString(a.GetLladdr()) || !ifNameRE.MatchString(a.GetDevice()) || a.Device == "lo" {
			return nil, deny(NetworkDenied, claim, to.GetAddress()+" "+a.GetLladdr()+" "+a.GetDevice(), "a unicast address, a hardware address, an interface other than lo")
		}
		want := &agentpb.ARPNeighbor{
			ToIPAddress: &agentpb.IPAddress{Family: to.Family, Address: to.Address},
			Device:      a.Device, Lladdr: a.Lladdr, State: 0x80, // NUD_PERMANENT
		}
		got := proto.CloneOf(a)
		if d := diff(claim, got.ProtoReflect(), want.ProtoReflect()); d != nil {
			d.Reason = NetworkDenied
			return nil, d
		}
	}
	if d := e.net.open("neighbors"); d != nil {
		return nil, d
	}
	if e.net.neigh {
		return nil, deny(Replayed, "neighbors", "set again", "once")
	}
	e.net.neigh = true
	return &Grant{rollback: e.locked(func() { e.net.neigh = false })}, nil
}

// judgeDNS holds the lines of resolv.conf to its grammar: addresses of name
// servers, search domains, options.
func (p *Policy) judgeDNS(lines []string) *denial.Denial {
	if len(lines) > 0 && p.Sandbox.ResolvConf != "host" {
		return deny(ResolvConfDenied, "sandbox.dns", fmt.Sprintf("%d lines", len(lines)), "none")
	}
	if len(lines) > 32 {
		return deny(ResolvConfDenied, "sandbox.dns", fmt.Sprintf("%d lines", len(lines)), "at most 32")
	}
	for n, line := range lines {
		if !resolvLine(line) {
			return deny(ResolvConfDenied, fmt.Sprintf("sandbox.dns[%d]", n), line, "nameserver ADDRESS, search DOMAIN..., options OPTION...")
		}
	}
	return nil
}

func resolvLine(line string) bool {
	if len(line) > 2048 {
		return false
	}
	words := strings.Split(line, " ")
	if len(words) < 2 || len(words) > 33 {
		return false
	}
	for _, w := range words[1:] {
		ok := false
		switch words[0] {
		case "nameserver":
			_, ok = hostAddr(w)
			ok = ok && len(words) == 2
		case "search":
			ok = dnsNameRE.MatchString(w)
		case "options":
			ok = resolvOptRE.MatchString(w)
		}
		if !ok {
			return false
		}
	}
	return true
}
