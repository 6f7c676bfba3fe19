package podpolicy

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Values of Container.ServiceLinks.
const (
	ServiceLinksAll        = "all"        // of every service of the namespace
	ServiceLinksKubernetes = "kubernetes" // of the cluster's own API only
)

// serviceLinkRE are the names by which a kubelet tells a container of a service.
var serviceLinkRE = regexp.MustCompile(`^[A-Z][A-Z0-9_]*?_(SERVICE_HOST|SERVICE_PORT|SERVICE_PORT_[A-Z0-9_]+|PORT|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)$`)

// ServiceLinkVariable reports whether name is one by which a kubelet tells a
// container of a service (Kubernetes, "Environment variables" of services).
func ServiceLinkVariable(name string) bool {
	return len(name) <= 256 && serviceLinkRE.MatchString(name)
}

// allowsLink reports whether c lets the host set a variable of a service: the
// name must be of their grammar, and the value an address, a port, a protocol or
// a URL of the three, as the name says.
func (c *Container) allowsLink(name, value string) bool {
	if c.ServiceLinks == "" || LoaderVariable(name) || len(name) > 256 || len(value) > 128 {
		return false
	}
	if c.ServiceLinks == ServiceLinksKubernetes && !strings.HasPrefix(name, "KUBERNETES_") {
		return false
	}
	m := serviceLinkRE.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	kind := m[1]
	switch {
	case strings.HasPrefix(kind, "SERVICE_PORT") || strings.HasSuffix(kind, "_PORT"):
		return linkPort(value) // first: what follows SERVICE_PORT_ is a port's name
	case kind == "SERVICE_HOST" || strings.HasSuffix(kind, "_ADDR"):
		return linkAddr(value)
	case strings.HasSuffix(kind, "_PROTO"):
		return linkProto(value)
	}
	proto, rest, ok := strings.Cut(value, "://")
	if !ok || !linkProto(proto) {
		return false
	}
	i := strings.LastIndexByte(rest, ':')
	return i > 0 && linkPort(rest[i+1:]) && linkAddr(strings.TrimSuffix(strings.TrimPrefix(rest[:i], "["), "]"))
}

func linkAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" && a.String() == s && !a.IsLoopback()
}

func linkPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

func linkProto(s string) bool { return s == "tcp" || s == "udp" || s == "sctp" }
