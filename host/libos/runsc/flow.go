package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// halfClosed is how long one direction may stay open after the other ended.
const halfClosed = 2 * time.Minute

// both copies in both directions until both have ended.
func both(a, b net.Conn) {
	done := make(chan struct{}, 2)
	half := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if w, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
			_ = w.CloseWrite()
		} else {
			_, _ = dst.Close(), src.Close()
		}
		done <- struct{}{}
	}
	go half(a, b)
	go half(b, a)
	<-done
	select {
	case <-done:
	case <-time.After(halfClosed):
	}
}

// datagrams copies in both directions until nothing has come for a while.
func datagrams(a, b net.Conn) {
	done := make(chan struct{}, 2)
	half := func(dst, src net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			_ = src.SetReadDeadline(time.Now().Add(udpIdle))
			m, err := src.Read(buf)
			if err != nil {
				break
			}
			if _, err := dst.Write(buf[:m]); err != nil {
				break
			}
		}
		done <- struct{}{}
	}
	go half(a, b)
	go half(b, a)
	<-done
}

// resolver gives this machine's first IPv4 name server; loopback where there is none.
func resolver(file string) string {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(io.LimitReader(f, 64<<10)); sc.Scan(); {
			w := strings.Fields(sc.Text())
			if len(w) < 2 || w[0] != "nameserver" {
				continue
			}
			if ip := net.ParseIP(w[1]); ip != nil && ip.To4() != nil {
				return ip.String()
			}
		}
	}
	return "127.0.0.1"
}

// published is a port of this machine that leads into the sandbox.
type published struct {
	listen string // address of this machine
	port   uint16 // of the sandbox
}

// parsePublish reads tcp/ADDRESS:PORT/PORT.
func parsePublish(args []string) ([]published, error) {
	var out []published
	for _, a := range args {
		f := strings.Split(a, "/")
		if len(f) != 3 || f[0] != "tcp" {
			return nil, fmt.Errorf("port %.100q: not tcp/ADDRESS:PORT/PORT", a)
		}
		n, err := strconv.ParseUint(f[2], 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %.100q: no port of the sandbox", a)
		}
		if _, _, err := net.SplitHostPort(f[1]); err != nil {
			return nil, fmt.Errorf("port %.100q: %w", a, err)
		}
		out = append(out, published{f[1], uint16(n)})
	}
	return out, nil
}

// publish listens until ctx ends.
func (n *network) publish(ctx context.Context, p published) error {
	l, err := net.Listen("tcp", p.listen)
	if err != nil {
		return fmt.Errorf("publishing a port: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	to := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4([4]byte(net.ParseIP(sandboxIP).To4())), Port: p.port}
	go func() {
		for {
			out, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(50 * time.Millisecond) // out of descriptors, perhaps
				continue
			}
			if !n.take() {
				_ = out.Close()
				continue
			}
			go func() {
				defer func() { <-n.flows }()
				defer out.Close()
				dctx, cancel := context.WithTimeout(ctx, dialTimeout)
				defer cancel()
				in, err := gonet.DialContextTCP(dctx, n.stack, to, ipv4.ProtocolNumber)
				if err != nil {
					return
				}
				defer in.Close()
				both(in, out)
			}()
		}
	}()
	return nil
}
