package rtnetlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Route is an entry of the main routing table.
type Route struct {
	Dest     netip.Prefix // zero value: the default route
	Gateway  netip.Addr
	Source   netip.Addr
	Index    uint32
	Scope    uint8
	Flags    uint32
	MTU      uint32
	Protocol uint8 // of listed routes; added ones are static
	V6       bool
}

func rtmsg(r *Route) *message {
	fam := uint8(unix.AF_INET)
	if r.V6 {
		fam = unix.AF_INET6
	}
	bits := uint8(max(r.Dest.Bits(), 0))
	b := []byte{fam, bits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, r.Scope, unix.RTN_UNICAST}
	m := &message{binary.NativeEndian.AppendUint32(b, r.Flags)}
	if bits > 0 {
		m.attr(unix.RTA_DST, r.Dest.Addr().AsSlice())
	}
	if r.Gateway.IsValid() {
		m.attr(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Source.IsValid() {
		m.attr(unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.Index != 0 {
		m.u32(unix.RTA_OIF, r.Index)
	}
	if r.MTU != 0 {
		var metrics message
		metrics.u32(unix.RTAX_MTU, r.MTU)
		m.attr(unix.RTA_METRICS|unix.NLA_F_NESTED, metrics.b)
	}
	return m
}

// Routes lists the unicast routes of the main table.
func (c *Conn) Routes(v6 bool) ([]Route, error) {
	msgs, err := c.dump(unix.RTM_GETROUTE, rtmsg(&Route{V6: v6}))
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var out []Route
	for _, m := range msgs {
		r, ok, err := decodeRoute(m)
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		if ok {
			out = append(out, r)
		}
	}
	return out, nil
}

func decodeRoute(m syscall.NetlinkMessage) (Route, bool, error) {
	a, err := attributes(m, unix.SizeofRtMsg)
	if err != nil {
		return Route{}, false, err
	}
	if m.Data[4] != unix.RT_TABLE_MAIN || m.Data[7] != unix.RTN_UNICAST {
		return Route{}, false, nil
	}
	r := Route{
		V6: m.Data[0] == unix.AF_INET6, Protocol: m.Data[5], Scope: m.Data[6],
		Flags: binary.NativeEndian.Uint32(m.Data[8:]),
		Index: attrU32(a[unix.RTA_OIF]), Gateway: attrAddr(a[unix.RTA_GATEWAY]), Source: attrAddr(a[unix.RTA_PREFSRC]),
	}
	if d := attrAddr(a[unix.RTA_DST]); d.IsValid() {
		r.Dest = netip.PrefixFrom(d, int(m.Data[1]))
	}
	return r, true, nil
}

// AddRoute adds or replaces a route.
func (c *Conn) AddRoute(r *Route) error {
	if err := c.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, rtmsg(r)); err != nil {
		return fmt.Errorf("adding route: %w", err)
	}
	return nil
}

// DeleteRoute removes a route.
func (c *Conn) DeleteRoute(r *Route) error {
	if err := c.change(unix.RTM_DELROUTE, 0, rtmsg(r)); err != nil {
		return fmt.Errorf("deleting route: %w", err)
	}
	return nil
}
