package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/test/agentns"
)

// linked is a layer with a link.
func linked(t *testing.T, target, name string) string {
	t.Helper()
	layer := agentns.Layer(t)
	p := filepath.Join(layer, name)
	if err := os.RemoveAll(p); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, p); err != nil {
		t.Fatal(err)
	}
	return layer
}

// What the kernel says of itself in /proc is asked inside a container, too. An image
// must not have a file of its own laid over it.
func TestNothingCoversTheKernelsFiles(t *testing.T) {
	const file = "/proc/sys/kernel/cap_last_cap"
	c := app("c", "status", "CapBnd")
	with := func(edit func(*podpolicy.Container)) podpolicy.Container {
		c := c
		edit(&c)
		return c
	}
	scratch := []podpolicy.Mount{{Volume: "scratch", Destination: "/data"}}
	for name, it := range map[string]struct {
		target, link string
		c            podpolicy.Container
	}{
		"the guest's hosts file":    {file, "etc/hosts", c},
		"by a link to a link":       {"etc/hosts", "there", with(func(c *podpolicy.Container) { c.Termination = "/proc-link/sys/kernel/cap_last_cap" })},
		"a termination message":     {file, "messages", with(func(c *podpolicy.Container) { c.Termination = "/messages" })},
		"a volume":                  {"/proc", "data", with(func(c *podpolicy.Container) { c.Mounts = scratch })},
		"a volume, by way of above": {"../../proc/sys", "data", with(func(c *podpolicy.Container) { c.Mounts = scratch })},
		"a volume of the image":     {"/sys/fs/cgroup", "data", with(func(c *podpolicy.Container) { c.ImageVolumes = []string{"/data"} })},
		"a terminal's file system":  {"/dev/pts", "data", with(func(c *podpolicy.Container) { c.Mounts = scratch })},
		"all devices":               {"/dev", "data", with(func(c *podpolicy.Container) { c.Mounts = scratch })},
		"what hides other files":    {"/dev/null", "messages", with(func(c *podpolicy.Container) { c.Termination = "/messages" })},
	} {
		t.Run(name, func(t *testing.T) {
			layer := linked(t, it.target, it.link)
			if err := os.Symlink("/proc", filepath.Join(layer, "proc-link")); err != nil {
				t.Fatal(err)
			}
			p := start(t, layer, func(p *podpolicy.Policy) {
				p.Volumes = []podpolicy.Volume{{Name: "scratch", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20}}
			}, it.c)
			if err := p.create("c", "c", nil); err == nil || !strings.Contains(err.Error(), "kernel's own files") {
				t.Errorf("created: %v", err)
			}
		})
	}
}

// A volume below another one is not laid over what a second container's link names.
func TestLinkInASharedVolume(t *testing.T) {
	shared := podpolicy.Mount{Volume: "shared", Destination: "/data"}
	inner := podpolicy.Mount{Volume: "inner", Destination: "/data/cache"}
	evil, victim, other := app("evil", "link", "/bin", "/data/cache"), app("victim", "echo", "mine"), app("other", "write", "/in/y/f")
	evil.Mounts, victim.Mounts = []podpolicy.Mount{shared}, []podpolicy.Mount{shared, inner}
	// By a link of the image's to below the volume.
	other.Mounts = []podpolicy.Mount{shared, {Volume: "inner", Destination: "/in/y"}}
	// A VOLUME of the image's is nothing of its own there.
	volume := app("volume", "write", "/data/f")
	volume.Mounts, volume.ImageVolumes = []podpolicy.Mount{shared}, []string{"/data/cache"}
	p := start(t, linked(t, "data", "in"), func(p *podpolicy.Policy) {
		p.Volumes = []podpolicy.Volume{
			{Name: "shared", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20}, {Name: "inner", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20},
		}
	}, evil, victim, other, volume)
	contains(t, p.run("evil"), "<nil>")
	if err := p.create("victim", "victim", nil); err == nil || !strings.Contains(err.Error(), "a link in a volume") {
		t.Errorf("created over evil's link: %v", err)
	}
	contains(t, p.run("other"), "/in/y/f <nil>")
	contains(t, p.run("volume"), "/data/f <nil>")
}

// What a container writes into its files of names is neither another's nor the guest's.
func TestFilesOfNamesAreItsOwn(t *testing.T) {
	files := []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
	writer, reader, fixed := app("writer", append([]string{"write"}, files...)...), app("reader", append([]string{"read"}, files...)...), app("fixed", append([]string{"write"}, files...)...)
	fixed.ReadOnly = true
	p := start(t, agentns.Layer(t), nil, writer, reader, fixed)
	out := p.run("writer")
	for _, f := range files {
		contains(t, out, f+" <nil>")
	}
	out = p.run("reader")
	contains(t, out, "127.0.0.1\tlocalhost")
	contains(t, out, "nameserver 192.0.2.1")
	contains(t, out, "pod-host")
	out = p.run("fixed")
	for _, f := range files {
		contains(t, out, f+" open "+f+": read-only")
	}
}

// A sub-path that is not there yet is made as open as its volume.
func TestSubPathOfAnyUser(t *testing.T) {
	uid, gid := uint32(1000), uint32(2000)
	c := app("c", "write", "/part/f", "/shared/g")
	c.User = podpolicy.User{UID: &uid, GID: &uid, AdditionalGIDs: []uint32{gid}}
	c.Mounts = []podpolicy.Mount{{Volume: "scratch", Destination: "/part", SubPath: "a/b"}, {Volume: "group", Destination: "/shared", SubPath: "a"}}
	p := start(t, agentns.Layer(t), func(p *podpolicy.Policy) {
		p.Volumes = []podpolicy.Volume{
			{Name: "scratch", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20}, {Name: "group", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20, GID: &gid},
		}
	}, c)
	out := p.run("c")
	contains(t, out, "/part/f <nil>")
	contains(t, out, "/shared/g <nil>")
}
