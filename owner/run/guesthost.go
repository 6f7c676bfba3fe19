package run

import (
	"net"
	"net/url"
	"strings"
)

// guestHost is how a guest in QEMU's user-mode network reaches the machine it
// runs on.
const guestHost = "10.0.2.2"

// forGuest rewrites a URL that only means something on this machine (a loopback
// address) to the address under which the guest finds the same service.
func forGuest(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	if !loopback(u.Hostname()) {
		return raw, nil
	}
	u.Host = hostPort(guestHost, u.Port())
	return u.String(), nil
}

// guestLocation does the same for a registry location, host[:port][/path].
func guestLocation(loc string) string {
	hp, path, slash := strings.Cut(loc, "/")
	host, port, err := net.SplitHostPort(hp)
	if err != nil {
		host, port = hp, ""
	}
	if !loopback(strings.Trim(host, "[]")) {
		return loc
	}
	out := hostPort(guestHost, port)
	if slash {
		out += "/" + path
	}
	return out
}

func hostPort(host, port string) string {
	if port == "" {
		return host
	}
	return net.JoinHostPort(host, port)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
