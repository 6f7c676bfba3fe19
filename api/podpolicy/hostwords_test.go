package podpolicy

import (
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
)

func TestHostWords(t *testing.T) {
	sixteen := strings.TrimSuffix(strings.Repeat("10.0.0.1,", 16), ",")
	for _, c := range []struct {
		from, value string
		ok          bool
	}{
		{FromPodIP, "10.88.0.7", true},
		{FromPodIP, "fd00::7", true},
		{FromPodIP, "", false},
		{FromPodIP, "10.88.0.7,fd00::7", false},
		{FromPodIP, "127.0.0.1", false}, // the guest's own services listen there
		{FromPodIP, "::1", false},
		{FromPodIP, "0.0.0.0", false},
		{FromPodIP, "224.0.0.1", false},
		{FromPodIP, "010.1.1.1", false},
		{FromPodIP, "::ffff:127.0.0.1", false},
		{FromPodIP, "fe80::1%eth0", false},
		{FromPodIP, "10.88.0.7\n", false},
		{FromPodIP, "evil.example", false},
		{FromPodIPs, "10.88.0.7", true},
		{FromPodIPs, "10.88.0.7,fd00::7", true},
		{FromPodIPs, sixteen, true},
		{FromPodIPs, sixteen + ",10.0.0.1", false},
		{FromPodIPs, "10.88.0.7,", false},
		{FromPodIPs, "10.88.0.7, fd00::7", false},
		{FromPodIPs, "10.88.0.7,127.0.0.1", false},
		{FromHostIP, "192.168.1.4", true},
		{FromHostIP, "$(id)", false},
		{FromHostIPs, "192.168.1.4,fd00::4", true},
		{FromHostIPs, ";", false},
		{FromNodeName, "node-1.example", true},
		{FromNodeName, "Node", false},
		{FromNodeName, "a..b", false},
		{FromNodeName, "-a", false},
		{FromNodeName, "a b", false},
		{FromNodeName, "../../etc", false},
		{FromNodeName, strings.Repeat("a", 254), false},
		{FromPodUID, "0f3c9a1e-7d1b-4c6e-9a55-1b2c3d4e5f60", true},
		{FromPodUID, "0f3c9a1e7d1b4c6e9a551b2c3d4e5f60", true}, // a static pod's
		{FromPodUID, "0F3C9A1E-7D1B-4C6E-9A55-1B2C3D4E5F60", false},
		{FromPodUID, "x", false},
	} {
		p := testPolicy()
		spec := &p.InitContainers[0]
		spec.Env = append(spec.Env, EnvVar{Name: "WORD", From: c.from})
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		e := NewEnforcer(p)
		deliver(t, e, p)
		word := "WORD=" + c.value
		g, err := e.Authorize(p.CreateContainerRequest(spec, "c1", "pod1", []string{"PATH=/bin", "PASSWORD=hunter2", word}))
		switch {
		case c.ok && err != nil:
			t.Errorf("%s %q: %v", c.from, c.value, err)
		case c.ok:
			if last := g.Env[len(g.Env)-1]; last != word {
				t.Errorf("the container gets %s, not %s", last, word)
			}
		case err == nil:
			t.Errorf("%s %q was allowed", c.from, c.value)
		default:
			if d, ok := denial.As(err); !ok || d.Reason != EnvMismatch || !strings.Contains(d.Claim, "env[WORD]") {
				t.Errorf("%s %q: %v", c.from, c.value, err)
			}
		}
	}
}

// TestHostWordIsNeeded: a host that leaves it out is denied, and so is one that gives it
// where the policy has none.
func TestHostWordIsNeeded(t *testing.T) {
	for _, has := range []bool{true, false} {
		p := testPolicy()
		spec := &p.InitContainers[0]
		env, want := []string{"PATH=/bin", "PASSWORD=hunter2"}, EnvUnexpected
		if has {
			spec.Env, want = append(spec.Env, EnvVar{Name: "IP", From: FromPodIP}), EnvMissing
		} else {
			env = append(env, "IP=10.1.2.3")
		}
		e := NewEnforcer(p)
		deliver(t, e, p)
		_, err := e.Authorize(p.CreateContainerRequest(spec, "c1", "pod1", env))
		if d, ok := denial.As(err); !ok || d.Reason != want {
			t.Errorf("in the policy %v: %v", has, err)
		}
	}
}
