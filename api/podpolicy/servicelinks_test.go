package podpolicy

import (
	"testing"

	"github.com/cofferproject/coffer/api/denial"
)

func TestServiceLinks(t *testing.T) {
	for _, c := range []struct {
		links, variable string
		ok              bool
	}{
		{"all", "KUBERNETES_SERVICE_HOST=10.96.0.1", true},
		{"all", "KUBERNETES_SERVICE_PORT=443", true},
		{"all", "KUBERNETES_SERVICE_PORT_HTTPS=443", true},
		{"all", "KUBERNETES_PORT=tcp://10.96.0.1:443", true},
		{"all", "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", true},
		{"all", "KUBERNETES_PORT_443_TCP_PROTO=tcp", true},
		{"all", "KUBERNETES_PORT_443_TCP_PORT=443", true},
		{"all", "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1", true},
		{"all", "WEB_SERVICE_HOST=fd00::7", true},
		{"all", "WEB_PORT=tcp://[fd00::7]:80", true},
		{"all", "DNS_SERVICE_PORT_ADDR=53", true}, // a port that is named addr
		{"kubernetes", "KUBERNETES_SERVICE_HOST=10.96.0.1", true},
		{"kubernetes", "WEB_SERVICE_HOST=10.96.0.7", false},
		{"", "KUBERNETES_SERVICE_HOST=10.96.0.1", false},
		{"all", "WEB_SERVICE_HOST=evil.example", false},
		{"all", "WEB_SERVICE_HOST=127.0.0.1", false},
		{"all", "WEB_SERVICE_HOST=::1", false},
		{"all", "WEB_SERVICE_HOST=010.1.1.1", false},
		{"all", "WEB_SERVICE_HOST=fe80::1%eth0", false},
		{"all", "WEB_SERVICE_PORT=0443", false},
		{"all", "WEB_SERVICE_PORT=70000", false},
		{"all", "WEB_PORT=tcp://10.96.0.7:80;rm -rf /", false},
		{"all", "WEB_PORT=http://10.96.0.7:80", false},
		{"all", "WEB_PORT=80", false},
		{"all", "WEB_PORT_80_TCP_PROTO=icmp", false},
		{"all", "web_SERVICE_HOST=10.96.0.7", false},
		{"all", "LD_PRELOAD=/tmp/x.so", false},
		{"all", "LD_PRELOAD_SERVICE_HOST=10.96.0.7", false}, // a loader variable by its prefix
		{"all", "_SERVICE_HOST=10.96.0.7", false},
		{"all", "PASSWORD_X=1", false},
	} {
		p := testPolicy()
		for i := range p.InitContainers {
			p.InitContainers[i].ServiceLinks = c.links
		}
		spec := &p.InitContainers[0]
		e := NewEnforcer(p)
		deliver(t, e, p)
		r := p.CreateContainerRequest(spec, "c1", "pod1", []string{"PATH=/bin", "PASSWORD=hunter2", c.variable})
		g, err := e.Authorize(r)
		switch {
		case c.ok && err != nil:
			t.Errorf("%s with %q: %v", c.variable, c.links, err)
		case !c.ok && err == nil:
			t.Errorf("%s with %q was allowed", c.variable, c.links)
		case c.ok:
			if last := g.Env[len(g.Env)-1]; last != c.variable {
				t.Errorf("the container gets %s, not %s", last, c.variable)
			}
		default:
			if d, ok := denial.As(err); !ok || d.Reason != EnvUnexpected {
				t.Errorf("%s: %v", c.variable, err)
			}
		}
	}
}

// TestServiceLinksDoNotReplace: what the policy names has the policy's value.
func TestServiceLinksDoNotReplace(t *testing.T) {
	p := testPolicy()
	c := &p.InitContainers[0]
	c.ServiceLinks = ServiceLinksAll
	c.Env = append(c.Env, EnvVar{Name: "DB_SERVICE_HOST", Value: ptr("10.1.2.3")})
	e := NewEnforcer(p)
	deliver(t, e, p)
	_, err := e.Authorize(p.CreateContainerRequest(c, "c1", "pod1", []string{"PATH=/bin", "PASSWORD=hunter2", "DB_SERVICE_HOST=10.9.9.9"}))
	if d, ok := denial.As(err); !ok || d.Reason != EnvMismatch {
		t.Errorf("another value than the policy's: %v", err)
	}
}

func TestServiceLinksUnknown(t *testing.T) {
	p := testPolicy()
	p.Containers[0].ServiceLinks = "some"
	if err := p.Validate(); err == nil {
		t.Error("service_links = some passed")
	}
}
