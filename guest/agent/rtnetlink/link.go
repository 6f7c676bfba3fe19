package rtnetlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link is a network interface.
type Link struct {
	Index    uint32
	Name     string
	HWAddr   net.HardwareAddr
	MTU      uint32
	Up       bool
	Loopback bool
}

func ifinfomsg(index uint32, flags, change uint32) *message {
	b := make([]byte, 4, 64) // family, pad, type
	b = binary.NativeEndian.AppendUint32(b, index)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, change)
	return &message{b}
}

// Links lists all interfaces.
func (c *Conn) Links() ([]Link, error) {
	msgs, err := c.dump(unix.RTM_GETLINK, ifinfomsg(0, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []Link
	for _, m := range msgs {
		a, err := attributes(m, unix.SizeofIfInfomsg)
		if err != nil {
			return nil, fmt.Errorf("listing interfaces: %w", err)
		}
		flags := binary.NativeEndian.Uint32(m.Data[8:])
		out = append(out, Link{
			Index:    binary.NativeEndian.Uint32(m.Data[4:]),
			Name:     string(bytes.TrimRight(a[unix.IFLA_IFNAME], "\x00")),
			HWAddr:   net.HardwareAddr(a[unix.IFLA_ADDRESS]),
			MTU:      attrU32(a[unix.IFLA_MTU]),
			Up:       flags&unix.IFF_UP != 0,
			Loopback: flags&unix.IFF_LOOPBACK != 0,
		})
	}
	return out, nil
}

// SetUp brings an interface up or down.
func (c *Conn) SetUp(index uint32, up bool) error {
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	if err := c.change(unix.RTM_NEWLINK, 0, ifinfomsg(index, flags, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bringing interface up or down: %w", err)
	}
	return nil
}

// SetMTU sets the largest packet.
func (c *Conn) SetMTU(index, mtu uint32) error {
	m := ifinfomsg(index, 0, 0)
	m.u32(unix.IFLA_MTU, mtu)
	if err := c.change(unix.RTM_NEWLINK, 0, m); err != nil {
		return fmt.Errorf("setting MTU: %w", err)
	}
	return nil
}

// Rename names an interface, which must be down.
func (c *Conn) Rename(index uint32, name string) error {
	m := ifinfomsg(index, 0, 0)
	m.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	if err := c.change(unix.RTM_NEWLINK, 0, m); err != nil {
		return fmt.Errorf("renaming interface: %w", err)
	}
	return nil
}

// Address is an interface's address.
type Address struct {
	Index  uint32
	Prefix netip.Prefix
}

// ifaFlags is where struct ifaddrmsg has its flags.
const ifaFlags = 2

func ifaddrmsg(a Address) *message {
	fam := uint8(0)
	if a.Prefix.IsValid() {
		fam = family(a.Prefix.Addr())
	}
	b := []byte{fam, uint8(max(a.Prefix.Bits(), 0)), 0, 0}
	return &message{binary.NativeEndian.AppendUint32(b, a.Index)}
}

// Addresses lists the addresses of all interfaces.
func (c *Conn) Addresses() ([]Address, error) {
	msgs, err := c.dump(unix.RTM_GETADDR, ifaddrmsg(Address{}))
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	var out []Address
	for _, m := range msgs {
		a, err := attributes(m, unix.SizeofIfAddrmsg)
		if err != nil {
			return nil, fmt.Errorf("listing addresses: %w", err)
		}
		ip := attrAddr(a[unix.IFA_LOCAL])
		if !ip.IsValid() {
			ip = attrAddr(a[unix.IFA_ADDRESS])
		}
		if ip.IsValid() {
			out = append(out, Address{Index: binary.NativeEndian.Uint32(m.Data[4:]), Prefix: netip.PrefixFrom(ip, int(m.Data[1]))})
		}
	}
	return out, nil
}

// AddAddress gives an interface an address; one that it has already is no error.
func (c *Conn) AddAddress(a Address) error {
	m := ifaddrmsg(a)
	ip := a.Prefix.Addr().AsSlice()
	m.attr(unix.IFA_LOCAL, ip)
	m.attr(unix.IFA_ADDRESS, ip)
	if a.Prefix.Addr().Is6() {
		// No duplicate address detection: nobody else has the pod's address, and
		// the pod would wait for it. In the header: a library OS knows no IFA_FLAGS.
		m.b[ifaFlags] |= unix.IFA_F_NODAD
	}
	if err := c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m); err != nil {
		return fmt.Errorf("adding address: %w", err)
	}
	return nil
}

// DeleteAddress takes an address away.
func (c *Conn) DeleteAddress(a Address) error {
	m := ifaddrmsg(a)
	m.attr(unix.IFA_LOCAL, a.Prefix.Addr().AsSlice())
	if err := c.change(unix.RTM_DELADDR, 0, m); err != nil {
		return fmt.Errorf("deleting address: %w", err)
	}
	return nil
}

// AddNeighbor adds a permanent entry to an interface's neighbour table.
func (c *Conn) AddNeighbor(index uint32, ip netip.Addr, hw net.HardwareAddr) error {
	b := []byte{family(ip), 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, index)
	b = binary.NativeEndian.AppendUint16(b, unix.NUD_PERMANENT)
	m := &message{append(b, 0, 0)}
	m.attr(unix.NDA_DST, ip.AsSlice())
	m.attr(unix.NDA_LLADDR, hw)
	if err := c.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m); err != nil {
		return fmt.Errorf("adding neighbour: %w", err)
	}
	return nil
}
