package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	maxForwarded = 128 // connections at a time
	dialTimeout  = 10 * time.Second
)

// Forwarder leads connections that the node makes to the loopback addresses of a
// pod's network namespace to the guest. A container runtime makes them there for port
// forwarding, where an ordinary pod's processes would listen; the guest's do not.
//
// The guest gets them at its own address, from the node: what listens on the guest's
// loopback alone is not reached.
type Forwarder struct {
	steer     *os.File // the kernel's program stays while it is open
	listeners []net.Listener
	addresses []netip.Addr
	log       *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	work   sync.WaitGroup
}

// Forward starts a Forwarder in the network namespace at path, to the guest's
// addresses. Close ends it.
func Forward(path string, addresses []netip.Addr, log *slog.Logger) (*Forwarder, error) {
	if len(addresses) == 0 {
		return nil, errors.New("forwarding ports: the guest has no address")
	}
	f := &Forwarder{addresses: addresses, log: log, slots: make(chan struct{}, maxForwarded)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: see Connect
		done <- f.listen(path)
	}()
	if err := <-done; err != nil {
		f.Close()
		return nil, fmt.Errorf("forwarding ports of %s: %w", path, err)
	}
	for _, l := range f.listeners {
		f.work.Go(func() { f.serve(l) })
	}
	return f, nil
}

// listen makes a listener for each family in the namespace, and has the kernel give
// them every new connection to the loopback addresses; nothing else listens there.
func (f *Forwarder) listen(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("entering it: %w", err)
	}
	var sockets [2]syscall.Conn // IPv4's, IPv6's
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // the kernel's map takes no such sockets
	for i, a := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := lc.Listen(f.ctx, "tcp", a)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a node without IPv6
		}
		if err != nil {
			return err
		}
		f.listeners = append(f.listeners, l)
		sockets[i] = l.(*net.TCPListener)
	}
	f.steer, err = steerLoopback(int(ns), sockets)
	return err
}

// Close ends all connections and waits for them.
func (f *Forwarder) Close() {
	f.cancel()
	if f.steer != nil {
		_ = f.steer.Close()
	}
	for _, l := range f.listeners {
		_ = l.Close()
	}
	f.work.Wait()
}

func (f *Forwarder) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if f.ctx.Err() == nil {
				f.log.Error("ports are forwarded no more", "error", err)
			}
			return
		}
		select {
		case f.slots <- struct{}{}:
		default:
			f.log.Warn("a connection was not forwarded", "error", fmt.Sprintf("there are %d already", maxForwarded))
			reset(c)
			continue
		}
		f.work.Go(func() {
			defer func() { <-f.slots }()
			f.forward(c)
		})
	}
}

// forward takes a connection to the guest, at the port that it was made to.
func (f *Forwarder) forward(c net.Conn) {
	stop := context.AfterFunc(f.ctx, func() { _ = c.Close() })
	defer stop()
	to := c.LocalAddr().(*net.TCPAddr).AddrPort()
	guest, err := f.dial(to.Port(), to.Addr().Unmap().Is4())
	if err != nil {
		f.log.Info("a connection was not forwarded", "port", to.Port(), "error", err)
		reset(c)
		return
	}
	stopGuest := context.AfterFunc(f.ctx, func() { _ = guest.Close() })
	defer stopGuest()
	var both sync.WaitGroup
	for _, d := range []struct{ from, to net.Conn }{{c, guest}, {guest, c}} {
		both.Go(func() {
			if _, err := io.Copy(d.to, d.from); err != nil {
				reset(c)
				reset(guest)
				return
			}
			_ = d.to.(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
	_, _ = c.Close(), guest.Close()
}

// dial tries the guest's addresses of the family first.
func (f *Forwarder) dial(port uint16, v4 bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	var errs []error
	for _, same := range []bool{true, false} {
		for _, a := range f.addresses {
			if (a.Is4() == v4) != same {
				continue
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(int(port))))
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

// reset ends a connection so that the other side takes it for refused, not for done.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
