package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// fdTAP is serveNetwork's end of the socket pair.
const fdTAP = 3

// Addresses of the sandbox's side of the link.
const (
	nic        = 1
	routerMAC  = "52:55:0a:00:02:02"
	sandboxIP  = "10.0.2.15"
	resolverIP = "10.0.2.3"
)

// Bounds: what one sandbox may make this process hold.
const (
	maxConnecting = 256
	maxFlows      = 1024
	dialTimeout   = 10 * time.Second
	udpIdle       = 60 * time.Second
)

// network carries a sandbox's TCP and UDP to this machine's sockets: the gateway's
// address is this machine's loopback, the resolver's this machine's resolver, all
// others are what they are.
type network struct {
	stack    *stack.Stack
	resolver string
	flows    chan struct{} // one slot for each flow
}

// serveNetwork carries traffic until the sandbox's end of the link is gone. args are
// the ports of this machine that lead into the sandbox (parsePublish).
func serveNetwork(args []string) error {
	publish, err := parsePublish(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	tap, err := receiveTAP()
	if err != nil {
		return fmt.Errorf("taking over the sandbox's network interface: %w", err)
	}
	ended := make(chan struct{})
	n := &network{resolver: resolver("/etc/resolv.conf"), flows: make(chan struct{}, maxFlows)}
	if n.stack, err = newStack(tap, func() { close(ended) }); err != nil {
		return fmt.Errorf("carrying the sandbox's traffic: %w", err)
	}
	tf := tcp.NewForwarder(n.stack, 0, maxConnecting, n.tcp)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tf.HandlePacket)
	uf := udp.NewForwarder(n.stack, n.udp)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, uf.HandlePacket)
	for _, p := range publish {
		if err := n.publish(ctx, p); err != nil {
			return err
		}
	}
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// receiveTAP waits for the interface that start hands over.
func receiveTAP() (int, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, m, _, _, err := unix.Recvmsg(fdTAP, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(msgs) != 1 {
		return -1, errors.New("its launcher has ended")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("not one descriptor")
	}
	return fds[0], errors.Join(unix.SetNonblock(fds[0], true), unix.Close(fdTAP))
}

func newStack(tap int, closed func()) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	mac, err := net.ParseMAC(routerMAC)
	if err != nil {
		return nil, err
	}
	link, err := fdbased.New(&fdbased.Options{
		FDs: []int{tap}, MTU: mtu, EthernetHeader: true, Address: tcpip.LinkAddress(mac), IsPacketSocket: []bool{false},
		ClosedFunc: func(tcpip.Error) { closed() },
	})
	if err != nil {
		return nil, err
	}
	gw := tcpip.AddrFrom4([4]byte(net.ParseIP(gateway).To4()))
	sack := tcpip.TCPSACKEnabled(true)
	for _, step := range []func() tcpip.Error{
		func() tcpip.Error { return s.CreateNIC(nic, link) },
		func() tcpip.Error {
			return s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
				Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: gw, PrefixLen: 24},
			}, stack.AddressProperties{})
		},
		// It answers for the addresses of others.
		func() tcpip.Error { return s.SetPromiscuousMode(nic, true) },
		func() tcpip.Error { return s.SetSpoofing(nic, true) },
		func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack) },
	} {
		if e := step(); e != nil {
			return nil, errors.New(e.String())
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s, nil
}

// outside gives the address that a sandbox's destination stands for.
func (n *network) outside(id stack.TransportEndpointID) string {
	ip, port := net.IP(id.LocalAddress.AsSlice()), fmt.Sprint(id.LocalPort)
	switch ip.String() {
	case gateway:
		return net.JoinHostPort("127.0.0.1", port)
	case resolverIP:
		return net.JoinHostPort(n.resolver, port)
	}
	return net.JoinHostPort(ip.String(), port)
}

// take reserves a slot for a flow.
func (n *network) take() bool {
	select {
	case n.flows <- struct{}{}:
		return true
	default:
		return false
	}
}

func (n *network) tcp(r *tcp.ForwarderRequest) {
	if !n.take() {
		r.Complete(true)
		return
	}
	go func() {
		defer func() { <-n.flows }()
		out, err := net.DialTimeout("tcp", n.outside(r.ID()), dialTimeout)
		if err != nil {
			r.Complete(true) // a reset: refused
			return
		}
		defer out.Close()
		var q waiter.Queue
		ep, e := r.CreateEndpoint(&q)
		r.Complete(e != nil)
		if e != nil {
			return
		}
		in := gonet.NewTCPConn(&q, ep)
		defer in.Close()
		both(in, out)
	}()
}

func (n *network) udp(r *udp.ForwarderRequest) bool {
	if !n.take() {
		return true // dropped, as a full link would
	}
	var q waiter.Queue
	ep, e := r.CreateEndpoint(&q)
	if e != nil {
		<-n.flows
		return false
	}
	to := n.outside(r.ID())
	go func() {
		defer func() { <-n.flows }()
		in := gonet.NewUDPConn(&q, ep)
		defer in.Close()
		out, err := net.DialTimeout("udp", to, dialTimeout)
		if err != nil {
			return
		}
		defer out.Close()
		datagrams(in, out)
	}()
	return true
}
