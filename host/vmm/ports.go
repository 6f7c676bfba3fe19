package vmm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/cofferproject/coffer/api/launch"
)

// checkPorts says which published port cannot be had, before anything starts.
// QEMU would say it too, but without the reason and only after a TPM was made.
func checkPorts(ps []launch.PortForward) error {
	for i, p := range ps {
		if a, err := netip.ParseAddr(hostIP(p)); err != nil || !a.Is4() {
			return fmt.Errorf("publish[%d]: %q is not an IPv4 address", i, p.HostIP)
		}
		var err error
		if p.Protocol == "udp" {
			var c net.PacketConn
			if c, err = net.ListenPacket("udp4", hostAddr(p)); err == nil {
				_ = c.Close()
			}
		} else {
			var l net.Listener
			if l, err = net.Listen("tcp4", hostAddr(p)); err == nil {
				_ = l.Close()
			}
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("port %s/%s of this host is in use by another program", hostAddr(p), p.Protocol)
		case err != nil:
			return fmt.Errorf("publishing port %s/%s: %w", hostAddr(p), p.Protocol, err)
		}
	}
	return nil
}

func lowPorts(ps []launch.PortForward) bool {
	for _, p := range ps {
		if p.HostPort < 1024 {
			return true
		}
	}
	return false
}
