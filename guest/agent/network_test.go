package agent

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
)

func TestWhichRoutesAreTheKernels(t *testing.T) {
	addresses := []rtnetlink.Address{{Index: 2, Prefix: netip.MustParsePrefix("10.89.0.2/24")}, {Index: 2, Prefix: netip.MustParsePrefix("fd00:89::2/64")}}
	to := netip.MustParsePrefix("10.89.0.0/24")
	gateway := netip.MustParseAddr("10.89.0.1")
	for name, c := range map[string]struct {
		r    rtnetlink.Route
		want bool
	}{
		"Linux's own":                 {rtnetlink.Route{Dest: to, Index: 2, Protocol: unix.RTPROT_KERNEL}, true},
		"somebody's to that network":  {rtnetlink.Route{Dest: to, Index: 2, Protocol: unix.RTPROT_STATIC}, false},
		"a library OS's own":          {rtnetlink.Route{Dest: to, Index: 2}, true},
		"a library OS's own, IPv6":    {rtnetlink.Route{Dest: netip.MustParsePrefix("fd00:89::/64"), Index: 2, V6: true}, true},
		"of another interface":        {rtnetlink.Route{Dest: to, Index: 3}, false},
		"by a gateway":                {rtnetlink.Route{Dest: to, Index: 2, Gateway: gateway}, false},
		"a default route":             {rtnetlink.Route{Index: 2}, false},
		"a narrower one":              {rtnetlink.Route{Dest: netip.MustParsePrefix("10.89.0.0/25"), Index: 2}, false},
		"a default route, by gateway": {rtnetlink.Route{Index: 2, Gateway: gateway}, false},
	} {
		if got := kernels(&c.r, addresses); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
