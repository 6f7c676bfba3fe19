package shim

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// TestEnvironment: what the guest says of a container, and of a command in it, whose
// environment is the bundle's with these at its end.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy []podpolicy.EnvVar // more of them
		links  string
		more   []string
		want   []string // what travels of more
		reason denial.Reason
	}{
		{"the pod's value over the image's", []podpolicy.EnvVar{{Name: "COLOUR", Value: ptr("blue")}}, "all", []string{"COLOUR=red", "COLOUR=blue"}, []string{"COLOUR=blue"}, ""},
		{"in the place of the last", []podpolicy.EnvVar{{Name: "A", Value: ptr("3")}, {Name: "B", Value: ptr("")}}, "all", []string{"A=1", "A=2", "B=", "A=3"}, []string{"B=", "A=3"}, ""},
		{"the image's over the pod's", []podpolicy.EnvVar{{Name: "COLOUR", Value: ptr("blue")}}, "all", []string{"COLOUR=blue", "COLOUR=red"}, []string{"COLOUR=red"}, podpolicy.EnvMismatch},
		{"twice, and not sealed", nil, "all", []string{"COLOUR=red", "COLOUR=blue"}, []string{"COLOUR=blue"}, podpolicy.EnvUnexpected},
		{"a name without a value at the end", []podpolicy.EnvVar{{Name: "COLOUR", Value: ptr("blue")}}, "all", []string{"COLOUR=blue", "COLOUR"}, []string{"COLOUR"}, podpolicy.EnvUnexpected},
		{"a service whose variables' names load code", nil, "all", []string{"PYTHON_API_SERVICE_HOST=10.96.0.9", "LD_PORT=tcp://10.96.0.9:80", "DB_SERVICE_HOST=10.96.0.8"}, []string{"DB_SERVICE_HOST=10.96.0.8"}, ""},
		{"the same, and sealed", []podpolicy.EnvVar{{Name: "PYTHON_API_PORT", Value: ptr("1")}}, "all", []string{"PYTHON_API_PORT=1"}, []string{"PYTHON_API_PORT=1"}, ""},
		{"what loads code and is no service's", nil, "all", []string{"PYTHONPATH=/x"}, []string{"PYTHONPATH=/x"}, podpolicy.EnvUnexpected},
		{"no services", nil, "", []string{"DB_PORT=tcp://10.96.0.8:80", "DB_SERVICE_HOST=10.96.0.8"}, nil, ""},
		{"the cluster's API alone", nil, "kubernetes", []string{"DB_PORT=tcp://10.96.0.8:80", "KUBERNETES_SERVICE_PORT=443"}, []string{"KUBERNETES_SERVICE_PORT=443"}, ""},
		{"a service with the name of the image's variable", []podpolicy.EnvVar{{Name: "REDIS_PORT", Value: ptr("6379")}}, "all", []string{"REDIS_PORT=6379", "DB_SERVICE_PORT=5432", "REDIS_PORT=tcp://10.96.0.7:6379"}, []string{"REDIS_PORT=6379", "DB_SERVICE_PORT=5432"}, ""},
		{"the same, in the other order", []podpolicy.EnvVar{{Name: "REDIS_PORT", Value: ptr("6379")}}, "", []string{"REDIS_PORT=tcp://10.96.0.7:6379", "REDIS_PORT=6379"}, []string{"REDIS_PORT=6379"}, ""},
		{"a terminal of the pod's own kind", []podpolicy.EnvVar{{Name: "TERM", Value: ptr("linux")}}, "all", []string{"TERM=xterm"}, []string{"TERM=linux"}, ""},
		{"neither is the policy's", []podpolicy.EnvVar{{Name: "REDIS_PORT", Value: ptr("6379")}}, "", []string{"REDIS_PORT=6380", "REDIS_PORT=tcp://10.96.0.7:6379"}, []string{"REDIS_PORT=tcp://10.96.0.7:6379"}, podpolicy.EnvMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPolicy()
			pc := &p.Containers[0]
			pc.Env, pc.ServiceLinks = append(pc.Env, c.policy...), c.links
			s := bundle("/var/lib/kubelet/pods")
			before := environment(pc, s.Process.Env)
			s.Process.Env = append(s.Process.Env, c.more...)
			if got := environment(pc, s.Process.Env); !slices.Equal(got, append(before, c.want...)) {
				t.Errorf("%q, want %q at the end", got, c.want)
			}
			e := guest(t, p)
			r, err := create(p, pc, s, "c1", "pod1")
			if err != nil {
				t.Fatal(err)
			}
			g, err := e.Authorize(r)
			if d, ok := denial.As(err); c.reason != "" && (!ok || d.Reason != c.reason) || c.reason == "" && err != nil {
				t.Fatalf("%v, want %q", err, c.reason)
			}
			if err != nil {
				return
			}
			g.Done(nil)
			if g, err = e.Authorize(&agentpb.StartContainerRequest{ContainerId: "c1"}); err != nil {
				t.Fatal(err)
			}
			g.Done(nil)
			for id, terminal := range map[string]bool{"x1": false, "x2": true} {
				x := command(s, terminal)
				if _, err := e.Authorize(execute(p, pc, x, "c1", id)); err != nil {
					t.Errorf("%q: %v", x.Args, err)
				}
			}
		})
	}
}

// command is a sealed command in the bundle's container, as containerd asks for it.
func command(s *specs.Spec, terminal bool) *specs.Process {
	x := *s.Process
	x.Args, x.Terminal = []string{"/app", "healthy"}, terminal
	if terminal {
		x.Args, x.Env = []string{"/app", "shell"}, append(slices.Clone(x.Env), "TERM=xterm")
	}
	return &x
}
