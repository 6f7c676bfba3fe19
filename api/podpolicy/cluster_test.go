package podpolicy

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/agentpb"
)

func accountPolicy(t *testing.T) (*Policy, *Enforcer, *Volume) {
	t.Helper()
	p := testPolicy()
	p.Volumes = append(p.Volumes, Volume{Name: "kube-api-access", Kind: VolumeServiceAccount})
	for i := range p.InitContainers {
		p.InitContainers[i].Mounts = append(p.InitContainers[i].Mounts, Mount{Volume: "kube-api-access", Destination: ServiceAccountDir, ReadOnly: true})
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	e := NewEnforcer(p)
	deliver(t, e, p)
	return p, e, p.Volume("kube-api-access")
}

func TestServiceAccountFiles(t *testing.T) {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("der")})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("der")})
	token := []byte("eyJh.eyJi.c2ln")
	_, e, v := accountPolicy(t)
	allow(t, e, CopyDirRequest(v, ""))
	for _, c := range []struct {
		name    string
		content []byte
		ok      bool
	}{
		{"token", token, true},
		{"token", []byte("eyJh.eyJi.c2lnbmV3"), true}, // renewed
		{"token", []byte("not a token"), false},
		{"token", []byte("a.b.c\n"), false},
		{"token", []byte(strings.Repeat("a", maxToken) + ".b.c"), false},
		{"token", nil, false},
		{"ca.crt", ca, true},
		{"ca.crt", append(append([]byte{}, ca...), ca...), true},
		{"ca.crt", key, false},
		{"ca.crt", append([]byte("#!/bin/sh\n"), ca...), false},
		{"ca.crt", append(append([]byte{}, ca...), "rubbish"...), false},
		{"ca.crt", []byte("-----BEGIN CERTIFICATE-----\nX: y\n\nZGVy\n-----END CERTIFICATE-----\n"), false},
		{"ca.crt", nil, false},
		{"namespace", []byte("default"), true},
		{"namespace", []byte("Default"), false},
		{"namespace", []byte("a\nb"), false},
		{"id_rsa", token, false},
		{"../config/a.conf", token, false},
	} {
		g, err := e.Authorize(AccountFileRequest(v, c.name, c.content))
		if (err == nil) != c.ok {
			t.Errorf("%s = %.30q: %v", c.name, c.content, err)
		}
		g.Done(nil)
	}
	for what, change := range map[string]func(*agentpb.CopyFileRequest){
		"a part": func(r *agentpb.CopyFileRequest) { r.Offset = 1 },
		"a size": func(r *agentpb.CopyFileRequest) { r.FileSize++ },
		"setuid": func(r *agentpb.CopyFileRequest) { r.FileMode |= 0o4000 },
		"a link": func(r *agentpb.CopyFileRequest) { r.FileMode = modeSymlink | 0o777 },
		"owner":  func(r *agentpb.CopyFileRequest) { r.Uid = 1 },
	} {
		r := AccountFileRequest(v, "token", token)
		change(r)
		if _, err := e.Authorize(r); err == nil {
			t.Errorf("%s was allowed", what)
		}
	}
}

// TestServiceAccountIsNotNeeded: a cluster that gives no token starts the pod too.
func TestServiceAccountIsNotNeeded(t *testing.T) {
	p, e, _ := accountPolicy(t)
	allow(t, e, create(p, "prepare", "c1"))
}

func TestSidecarsStartFirstAndStay(t *testing.T) {
	p := testPolicy()
	p.InitContainers[0].Sidecar, p.InitContainers[0].Restart = true, "Always"
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	e := NewEnforcer(p)
	deliver(t, e, p)
	refuse(t, e, create(p, "check", "c1"), OutOfOrder, "init_containers[check]")
	allow(t, e, create(p, "prepare", "s1"))
	refuse(t, e, create(p, "check", "c1"), OutOfOrder, "init_containers[check]") // created is not started
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "s1"})
	allow(t, e, create(p, "check", "c1"))
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "c1"})
	refuse(t, e, create(p, "app", "a1"), OutOfOrder, "containers[app]") // check must succeed first
	e.Exited("c1", "", 0)
	allow(t, e, create(p, "app", "a1"))
	e.Exited("s1", "", 0) // a sidecar that ends is started again, whatever its status
	allow(t, e, create(p, "prepare", "s2"))
}

func TestClusterMembersAreValidated(t *testing.T) {
	for what, change := range map[string]func(*Policy){
		"a sidecar that never restarts":      func(p *Policy) { p.InitContainers[1].Sidecar = true },
		"a sidecar among the containers":     func(p *Policy) { p.Containers[1].Sidecar = true },
		"a word of nobody's":                 func(p *Policy) { p.Containers[0].Env = []EnvVar{{Name: "A", From: "host-name"}} },
		"a word beside a value":              func(p *Policy) { p.Containers[0].Env = []EnvVar{{Name: "A", From: FromPodIP, Value: ptr("x")}} },
		"a word that loads code":             func(p *Policy) { p.Containers[0].Env = []EnvVar{{Name: "LD_PRELOAD", From: FromNodeName}} },
		"an account with files":              func(p *Policy) { p.Volumes[0].Kind = VolumeServiceAccount },
		"an account that is writable":        func(p *Policy) { p.Volumes[1] = Volume{Name: "scratch", Kind: VolumeServiceAccount} },
		"a host alias without an address":    func(p *Policy) { p.Sandbox.Hosts = []HostAlias{{IP: "x", Names: []string{"a"}}} },
		"a host alias without a name":        func(p *Policy) { p.Sandbox.Hosts = []HostAlias{{IP: "10.1.1.1"}} },
		"a host alias with a line in a name": func(p *Policy) { p.Sandbox.Hosts = []HostAlias{{IP: "10.1.1.1", Names: []string{"a\n127.0.0.1 b"}}} },
	} {
		p := testPolicy()
		change(p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s passed", what)
		}
	}
	p := testPolicy()
	p.Sandbox.Hosts = []HostAlias{{IP: "fd00::1", Names: []string{"db.example", "db"}}}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}
