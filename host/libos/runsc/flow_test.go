package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func TestParsePublish(t *testing.T) {
	p, err := parsePublish([]string{"tcp/127.0.0.1:8080/80"})
	if err != nil || len(p) != 1 || p[0] != (published{"127.0.0.1:8080", 80}) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "tcp", "udp/127.0.0.1:1/1", "tcp/127.0.0.1:1/0", "tcp/127.0.0.1:1/65536", "tcp/127.0.0.1/1", "tcp/127.0.0.1:1/1/1"} {
		if p, err := parsePublish([]string{bad}); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestResolver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for content, want := range map[string]string{
		"search x\nnameserver fe80::1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n": "192.0.2.1", "": "127.0.0.1", "nameserver\nnameserver nonsense\n": "127.0.0.1",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := resolver(file); got != want {
			t.Errorf("%q: %s, want %s", content, got, want)
		}
	}
	if got := resolver(file + "x"); got != "127.0.0.1" {
		t.Errorf("no file: %s", got)
	}
}

// The gateway is this machine's loopback, the resolver its resolver, others are
// themselves.
func TestOutside(t *testing.T) {
	n := &network{resolver: "192.0.2.53"}
	for to, want := range map[string]string{"10.0.2.2": "127.0.0.1:80", "10.0.2.3": "192.0.2.53:80", "198.51.100.7": "198.51.100.7:80"} {
		id := stack.TransportEndpointID{LocalAddress: tcpip.AddrFrom4([4]byte(net.ParseIP(to).To4())), LocalPort: 80}
		if got := n.outside(id); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
}

// Data goes both ways, and the end of one direction is passed on.
func TestBoth(t *testing.T) {
	pair := func() (net.Conn, net.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	client, in := pair()
	out, server := pair()
	done := make(chan struct{})
	go func() { both(in, out); close(done) }()
	buf := make([]byte, 8)
	for _, c := range [][2]net.Conn{{client, server}, {server, client}} {
		if _, err := c[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if m, err := c[1].Read(buf); err != nil || string(buf[:m]) != "hello" {
			t.Fatalf("%q, %v", buf[:m], err)
		}
	}
	_ = client.Close()
	if _, err := server.Read(buf); err == nil {
		t.Error("the end was not passed on")
	}
	_ = server.Close()
	<-done
}
