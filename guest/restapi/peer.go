package restapi

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A connection on loopback says nothing about who is at its other end, and one
// process of the guest's own that may be hostile shares the pod's network: the
// image parser. The kernel's tables of TCP sockets name the user who made each.

// socketTables are the kernel's tables of this network namespace; an IPv4
// connection may be in either.
var socketTables = []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"}

// errNoSocket says that no open socket belongs to the connection any more.
var errNoSocket = errors.New("the peer's socket is not known")

// peerTries is how often a table is read again: it can miss a socket while others
// come and go.
const peerTries = 3

// notFrom lets requests through only if the peer's socket belongs to a user who
// is not among refused. A peer that is gone gets no answer anyway.
func notFrom(refused []uint32, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uid, err := requestUser(r)
		if err != nil || slices.Contains(refused, uid) {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func requestUser(r *http.Request) (uint32, error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return 0, err
	}
	for range peerTries {
		for _, table := range socketTables {
			uid, ok, err := tableUser(table, peer)
			if err != nil {
				return 0, err
			}
			if ok {
				return uid, nil
			}
		}
	}
	return 0, errNoSocket
}

// tableUser finds the user of the socket that is bound to addr.
func tableUser(table string, addr netip.AddrPort) (uint32, bool, error) {
	f, err := os.Open(table)
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("reading sockets: %w", err)
	}
	defer f.Close()
	return findUser(f, addr)
}

func findUser(table io.Reader, addr netip.AddrPort) (uint32, bool, error) {
	s := bufio.NewScanner(table)
	for s.Scan() {
		// sl local remote state queues timer retransmits uid timeout inode ...
		f := strings.Fields(s.Text())
		if len(f) < 10 || f[9] == "0" { // the inode of a socket that was closed
			continue
		}
		local, ok := tableAddr(f[1])
		if !ok || local.Port() != addr.Port() || local.Addr().Unmap() != addr.Addr().Unmap() || f[3] == stateListen {
			continue
		}
		uid, err := strconv.ParseUint(f[7], 10, 32)
		if err != nil {
			return 0, false, fmt.Errorf("reading sockets: %w", err)
		}
		return uint32(uid), true, nil
	}
	if err := s.Err(); err != nil {
		return 0, false, fmt.Errorf("reading sockets: %w", err)
	}
	return 0, false, nil
}

const stateListen = "0A"

// bigEndian is the processor's byte order.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// tableAddr reads ADDRESS:PORT in hex, the address in words of the processor's
// byte order.
func tableAddr(s string) (netip.AddrPort, bool) {
	a, p, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	if !ok || err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	if !bigEndian {
		for i := 0; i < len(b); i += 4 {
			slices.Reverse(b[i : i+4])
		}
	}
	addr, ok := netip.AddrFromSlice(b)
	port, err := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, uint16(port)), true
}
