package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Descriptors beside those of the agent; api/libos has their order.
const (
	// fdLink is start's end of a socket pair, on which the interface is handed over.
	fdLink = 6
	// fdNetwork is, in its place, join's: the network namespace to run in.
	fdNetwork = 6
)

// The interface as the pod's plan expects it (owner/spec): what QEMU's user-mode
// network has, so that the same plan fits both.
const (
	interfaceName = "eth0"
	interfaceMAC  = "52:54:00:12:34:56"
	address       = "10.0.2.15/24"
	gateway       = "10.0.2.2"
	mtu           = 65520
)

// start runs in a network namespace of its own, which its launcher has made. It
// makes the interface there, hands its other end to serveNetwork, and becomes runsc
// with args. The namespace's kernel has no part in the traffic: runsc takes the
// address from the interface, and its own stack answers for it.
func start(args []string) error {
	runtime.LockOSThread()
	tap, err := newTAP()
	if err != nil {
		return fmt.Errorf("making the sandbox's network interface: %w", err)
	}
	if err := unix.Sendmsg(fdLink, []byte{0}, unix.UnixRights(tap), nil, 0); err != nil {
		return fmt.Errorf("handing over the sandbox's network interface: %w", err)
	}
	if err := errors.Join(unix.Close(tap), unix.Close(fdLink)); err != nil {
		return fmt.Errorf("handing over the sandbox's network interface: %w", err)
	}
	return become(args)
}

// join enters the pod's network namespace, which CNI has made, and becomes runsc with
// args. runsc moves the addresses from the interfaces there into the sandbox.
func join(args []string) error {
	runtime.LockOSThread()
	if err := unix.Setns(fdNetwork, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the pod's network namespace: %w", err)
	}
	if err := unix.Close(fdNetwork); err != nil {
		return fmt.Errorf("entering the pod's network namespace: %w", err)
	}
	return become(args)
}

// become puts runsc into this process's place; the thread that called keeps its
// namespaces.
func become(args []string) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("becoming runsc: %w", err)
	}
	// By the open file, not by its name: what was started goes on.
	if err := unix.Exec("/proc/self/exe", append([]string{exe}, args...), os.Environ()); err != nil {
		return fmt.Errorf("becoming runsc: %w", err)
	}
	return nil
}

// newTAP makes the interface and gives the descriptor of its other end.
func newTAP() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	req, err := unix.NewIfreq(interfaceName)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = configure()
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func configure() error {
	hw, err := net.ParseMAC(interfaceMAC)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(interfaceName)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		// The kernel itself says nothing on this link.
		func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) },
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.LinkSetHardwareAddr(link, hw) },
		func() error { return netlink.LinkSetMTU(link, mtu) },
		func() error { return netlink.AddrAdd(link, addr) },
		func() error { return netlink.LinkSetUp(link) },
		func() error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
		},
	} {
		if err := step(); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
