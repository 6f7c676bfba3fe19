package podnet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// dialIn connects to an address in a namespace.
func dialIn(t *testing.T, path, address string) (c net.Conn, err error) {
	t.Helper()
	inNamespace(t, path, func() error {
		lo, nerr := netlink.LinkByName("lo")
		if nerr != nil {
			return nerr
		}
		if nerr := netlink.LinkSetUp(lo); nerr != nil {
			return nerr
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return nil
	})
	return c, err
}

// TestForward: a connection to any port of the pod's loopback reaches the same port of
// the guest, of which the test's own machine takes the place, and nothing else does.
func TestForward(t *testing.T) {
	pod, _ := podNamespace(t)
	guest, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c) // until the other side has said all
				fmt.Fprintf(c, "got %s", b)
				c.Close()
			}()
		}
	}()
	port := guest.Addr().(*net.TCPAddr).Port
	// The namespace's loopback is set up by the first to dial: as in a pod, before.
	if c, err := dialIn(t, pod, fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		c.Close()
		t.Fatal("something listens in a new namespace")
	}
	f, err := Forward(pod, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addresses := []string{fmt.Sprintf("127.0.0.1:%d", port)}
	if len(f.listeners) == 2 {
		addresses = append(addresses, fmt.Sprintf("[::1]:%d", port))
	}
	for _, a := range addresses {
		c, err := dialIn(t, pod, a)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "got hello" {
			t.Errorf("%s: %q, %v", a, b, err)
		}
		c.Close()
	}
	// A port where the guest has nothing: not an answer without content.
	if c, err := dialIn(t, pod, "127.0.0.1:1"); err == nil { // else it was ended as early as that
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if b, err := io.ReadAll(c); err == nil {
			t.Errorf("a port that nobody has: %q and no error", b)
		}
		c.Close()
	}
	// Other addresses of the namespace are not its business.
	if c, err := dialIn(t, pod, fmt.Sprintf("127.0.0.2:%d", port)); err == nil {
		c.Close()
		t.Error("another address was taken")
	}
	f.Close()
	if c, err := dialIn(t, pod, addresses[0]); err == nil {
		c.Close()
		t.Error("taken after Close")
	}
}
