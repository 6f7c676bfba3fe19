// Package rtnetlink speaks the few rtnetlink messages that the agent needs to
// set up interfaces, addresses, routes and neighbours. It exists because the
// usual library weighs more than the rest of the agent.
//
// Trust zone: guest. Only the kernel answers on the socket.
package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Conn is a route netlink socket of the calling process's network namespace.
type Conn struct {
	fd  int
	seq uint32
}

// Open opens a Conn. It is not safe for concurrent use.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening route socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening route socket: %w", err)
	}
	tv := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening route socket: %w", err)
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() { unix.Close(c.fd) }

// message is a request under construction: its fixed part, then attributes.
type message struct{ b []byte }

func (m *message) attr(typ uint16, value []byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(4+len(value)))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = append(m.b, value...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *message) u32(typ uint16, v uint32) { m.attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }

// do sends a request and collects the answers' payloads until the kernel is done.
func (c *Conn) do(typ, flags uint16, m *message) ([]syscall.NetlinkMessage, error) {
	c.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(m.b)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, m.b...)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out []syscall.NetlinkMessage
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(append([]byte(nil), buf[:n]...))
		if err != nil {
			return nil, err
		}
		for _, r := range msgs {
			if r.Header.Seq != c.seq {
				continue // an answer to a request that timed out
			}
			switch r.Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				if len(r.Data) < 4 {
					return nil, errors.New("short answer from the kernel")
				}
				if e := int32(binary.NativeEndian.Uint32(r.Data)); e != 0 {
					return nil, unix.Errno(-e)
				}
				return out, nil
			default:
				out = append(out, r)
			}
		}
	}
}

func (c *Conn) change(typ, flags uint16, m *message) error {
	_, err := c.do(typ, flags|unix.NLM_F_ACK, m)
	return err
}

func (c *Conn) dump(typ uint16, m *message) ([]syscall.NetlinkMessage, error) {
	return c.do(typ, unix.NLM_F_DUMP, m)
}

// attributes decodes the attributes after a fixed part of size bytes.
func attributes(r syscall.NetlinkMessage, size int) (map[uint16][]byte, error) {
	if len(r.Data) < size {
		return nil, errors.New("short answer from the kernel")
	}
	out := map[uint16][]byte{}
	for b := r.Data[size:]; len(b) >= 4; {
		l := int(binary.NativeEndian.Uint16(b))
		if l < 4 || l > len(b) {
			return nil, errors.New("malformed attribute from the kernel")
		}
		out[binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED] = b[4:l]
		b = b[min((l+3)&^3, len(b)):]
	}
	return out, nil
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func attrU32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func attrAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
