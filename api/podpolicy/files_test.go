package podpolicy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/agentpb"
)

func TestCopyFile(t *testing.T) {
	e, p := mustEnforcer(t)
	allow(t, e, p.CreateSandboxRequest("pod1", nil))
	v := p.Volume("config")
	good := CopyFileRequests(v, "a.conf", []byte("level=very"))[0]
	edit := func(f func(r *agentpb.CopyFileRequest)) *agentpb.CopyFileRequest {
		r := CopyFileRequests(v, "a.conf", []byte("level=very"))[0]
		f(r)
		return r
	}
	for _, path := range []string{
		"", "/etc/passwd", SharedDir, SharedDir + "/", SharedDir + "/config/../config/a.conf", SharedDir + "/config//a.conf", SharedDir + "/config/a.conf/",
		SharedDir + "x/config/a.conf", "." + SharedDir + "/config/a.conf", SharedDir + "/../../../etc/passwd",
	} {
		refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Path = path }), PathDenied, "path")
	}
	for _, path := range []string{"/config/c.conf", "/other/a.conf", "/scratch/a.conf", "/config/d", "/config"} {
		refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Path = SharedDir + path }), FileUndeclared, "volumes[")
	}
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.FileMode = modeSymlink | 0o777; r.Data = []byte("/etc") }), LinkDenied, "volumes[config].files[a.conf]")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.FileMode = modeRegular | 0o4755 }), FileMismatch, "file_mode")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.FileMode = 0o020000 | 0o644 }), FileMismatch, "file_mode")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Data = []byte("level=evil") }), FileMismatch, "volumes[config].files[a.conf].sha256")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Data = append(r.Data, 'x') }), FileMismatch, "size")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Data = nil }), OutOfOrder, "offset")
	refuse(t, e, edit(func(r *agentpb.CopyFileRequest) { r.Offset = -1 }), OutOfOrder, "offset")

	first := edit(func(r *agentpb.CopyFileRequest) { r.Data = r.Data[:4] })
	second := edit(func(r *agentpb.CopyFileRequest) { r.Data = r.Data[4:]; r.Offset = 4 })
	refuse(t, e, second, OutOfOrder, "offset")
	allow(t, e, first)
	refuse(t, e, first, OutOfOrder, "offset")
	refuse(t, e, good, OutOfOrder, "offset")
	pend(t, e, second).Done(errors.New("disk full"))
	g := pend(t, e, second)
	refuse(t, e, second, OutOfOrder, "offset")
	if !g.File.Last || g.File.Path != "a.conf" || g.File.File.Mode != 0o644 {
		t.Fatalf("grant %+v", g.File)
	}
	g.Done(nil)
	refuse(t, e, good, Replayed, "volumes[config].files[a.conf]")

	allow(t, e, CopyDirRequest(v, "d"))
	refuse(t, e, CopyDirRequest(v, "d"), Replayed, "volumes[config].files[d]")
	refuse(t, e, CopyDirRequest(v, "e"), FileUndeclared, "volumes[config].files[e]")
	refuse(t, e, create(p, "prepare", "c1"), VolumeIncomplete, "volumes[config].files[d/b.conf]")
	allow(t, e, CopyFileRequests(v, "d/b.conf", nil)[0])
	allow(t, e, create(p, "prepare", "c1"))
}

func TestChunks(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), ChunkSize/16*2+1)
	p := testPolicy()
	p.Volumes[0].Files = map[string]File{"big": {SHA256: sha(string(content)), Size: int64(len(content)), Mode: 0o600}}
	e := NewEnforcer(p)
	allow(t, e, p.CreateSandboxRequest("pod1", nil))
	rs := CopyFileRequests(&p.Volumes[0], "big", content)
	if len(rs) != 3 {
		t.Fatalf("%d chunks", len(rs))
	}
	for range 2 { // a changed byte in the first chunk shows in the last; then the file starts anew
		allow(t, e, changed(rs[0]))
		allow(t, e, rs[1])
		refuse(t, e, rs[2], FileMismatch, "sha256")
	}
	for _, r := range rs {
		allow(t, e, r)
	}
}

func changed(r *agentpb.CopyFileRequest) *agentpb.CopyFileRequest {
	data := bytes.Clone(r.Data)
	data[7] ^= 1
	return &agentpb.CopyFileRequest{Path: r.Path, FileSize: r.FileSize, FileMode: r.FileMode, DirMode: r.DirMode, Data: data}
}

func TestNetwork(t *testing.T) {
	iface := func(f func(*agentpb.Interface)) *agentpb.UpdateInterfaceRequest {
		i := &agentpb.Interface{Name: "eth0", HwAddr: "52:54:00:12:34:56", Mtu: 1500, IPAddresses: []*agentpb.IPAddress{{Address: "10.0.2.15", Mask: "24"}}}
		f(i)
		return &agentpb.UpdateInterfaceRequest{Interface: i}
	}
	e, p := mustEnforcer(t)
	for name, f := range map[string]func(*agentpb.Interface){
		"lo":        func(i *agentpb.Interface) { i.Name = "lo" },
		"device lo": func(i *agentpb.Interface) { i.Device = "lo" },
		"slash":     func(i *agentpb.Interface) { i.Name = "../x" },
		"loopback":  func(i *agentpb.Interface) { i.IPAddresses[0].Address = "127.0.0.2" },
		"loopback6": func(i *agentpb.Interface) {
			i.IPAddresses[0] = &agentpb.IPAddress{Family: 1, Address: "::1", Mask: "128"}
		},
		"mapped": func(i *agentpb.Interface) {
			i.IPAddresses[0] = &agentpb.IPAddress{Family: 1, Address: "::ffff:127.0.0.1", Mask: "96"}
		},
		"multicast":  func(i *agentpb.Interface) { i.IPAddresses[0].Address = "224.0.0.1" },
		"family":     func(i *agentpb.Interface) { i.IPAddresses[0].Family = 1 },
		"mask":       func(i *agentpb.Interface) { i.IPAddresses[0].Mask = "33" },
		"mask zero":  func(i *agentpb.Interface) { i.IPAddresses[0].Mask = "0" },
		"mac":        func(i *agentpb.Interface) { i.HwAddr = "" },
		"multi mac":  func(i *agentpb.Interface) { i.HwAddr = "01:00:5e:00:00:01" },
		"mtu":        func(i *agentpb.Interface) { i.Mtu = 1 },
		"devicePath": func(i *agentpb.Interface) { i.DevicePath = "02/00" },
		"flags":      func(i *agentpb.Interface) { i.RawFlags = 0x80 },
	} {
		t.Run(name, func(t *testing.T) { refuse(t, e, iface(f), NetworkDenied, "interface[") })
	}
	none := func(*agentpb.Interface) {}
	refuse(t, e, &agentpb.UpdateInterfaceRequest{}, NetworkDenied, "interface[")
	pend(t, e, iface(none)).Done(errors.New("not yet"))
	allow(t, e, iface(none))
	refuse(t, e, iface(none), Replayed, "interface[eth0]")

	route := func(r *agentpb.Route) *agentpb.UpdateRoutesRequest {
		return &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*agentpb.Route{r}}}
	}
	for _, r := range []*agentpb.Route{
		nil, {Device: "lo"}, {Device: "eth0", Dest: "127.0.0.0/8"}, {Device: "eth0", Dest: "127.0.0.1/32"}, {Device: "eth0", Dest: "::1/128", Family: 1},
		{Device: "eth0", Dest: "10.0.0.1/8"}, {Device: "eth0", Gateway: "127.0.0.1"}, {Device: "eth0", Dest: "x"}, {Device: "eth0", Scope: 254}, {Device: "eth0", Flags: 1},
		{Device: "eth0", Gateway: "fe80::1"}, {Device: "eth0", Mtu: 3}, {Device: "eth0", Family: 7},
	} {
		refuse(t, e, route(r), NetworkDenied, "routes[0]")
	}
	allow(t, e, route(&agentpb.Route{Device: "eth0", Gateway: "10.0.2.2"}))
	refuse(t, e, route(&agentpb.Route{Device: "eth0", Gateway: "10.0.2.2"}), Replayed, "routes")

	for _, line := range []string{"", "nameserver", "nameserver x", "nameserver 1.1.1.1 2.2.2.2", "nameserver 1.1.1.1\nsearch x", "search", "search a;b", "domain x", "options a=b", "sortlist 1.1.1.1", strings.Repeat("a ", 3000)} {
		refuse(t, e, p.CreateSandboxRequest("pod1", []string{line}), ResolvConfDenied, "sandbox.dns[0]")
	}
	deliver(t, e, p)
	allow(t, e, create(p, "prepare", "c1"))
	refuse(t, e, iface(func(i *agentpb.Interface) { i.Name, i.HwAddr = "eth1", "52:54:00:12:34:57" }), OutOfOrder, "interface[eth1]")
}
