package podpolicy

import (
	"net/netip"
	"strings"
)

// Values of EnvVar.From: what of a pod the cluster decides when it starts it, by the
// downward API's fields.
const (
	FromPodIP    = "pod-ip"    // status.podIP
	FromPodIPs   = "pod-ips"   // status.podIPs, with commas between
	FromHostIP   = "host-ip"   // status.hostIP
	FromHostIPs  = "host-ips"  // status.hostIPs, with commas between
	FromNodeName = "node-name" // spec.nodeName
	FromPodUID   = "pod-uid"   // metadata.uid
)

const maxHostIPs = 16

var (
	nodeNameRE = compiled(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	podUIDRE   = compiled(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$|^[0-9a-f]{32}$`) // a UUID; a static pod's is a hash
)

// hostWords are the grammars of From.
var hostWords = map[string]func(value string) bool{
	FromPodIP:    hostWordAddr,
	FromPodIPs:   hostWordAddrs,
	FromHostIP:   hostWordAddr,
	FromHostIPs:  hostWordAddrs,
	FromNodeName: func(s string) bool { return len(s) <= 253 && nodeNameRE.MatchString(s) && !strings.Contains(s, "..") },
	FromPodUID:   podUIDRE.MatchString,
}

func hostWordAddr(s string) bool {
	a, ok := hostAddr(s)
	return ok && unicastAddr(a)
}

func hostWordAddrs(s string) bool {
	list := strings.SplitN(s, ",", maxHostIPs+1)
	if len(list) > maxHostIPs {
		return false
	}
	for _, a := range list {
		if !hostWordAddr(a) {
			return false
		}
	}
	return true
}

func unicastAddr(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified()
}
