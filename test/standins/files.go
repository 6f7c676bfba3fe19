package main

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed files
var files embed.FS

func ownFile(name string) string {
	b, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err) // embedded: cannot be missing
	}
	return string(b)
}

// accounts writes passwd, group and shadow with root, the usual few, and the
// image's own user ("" for none).
func (t tree) accounts(name string, uid int, home string) {
	passwd := "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
	group := "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"
	if name != "" {
		passwd += fmt.Sprintf("%s:x:%d:%d:%s:%s:/usr/sbin/nologin\n", name, uid, uid, name, home)
		group += fmt.Sprintf("%s:x:%d:\n", name, uid)
	}
	passwd += "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	t.file("etc/passwd", 0o644, passwd)
	t.file("etc/group", 0o644, group)
}

// skeleton adds the folders that every root file system has.
func (t tree) skeleton() {
	for _, d := range []string{"dev", "etc", "home", "mnt", "proc", "run", "sys", "srv", "var/log", "var/lib", "usr/local/bin", "usr/sbin"} {
		if t[d] == nil {
			t.dir(d, 0o755, 0, 0)
		}
	}
	t.dir("root", 0o700, 0, 0)
	for _, d := range []string{"tmp", "var/tmp"} {
		t.add(d, &node{mode: fs.ModeDir | fs.ModeSticky | 0o777})
	}
	t.usr()
}

// debianBase keeps of the base packages what scripts use.
func debianBase(pkgs map[string]tree) tree {
	t := tree{}
	for _, name := range basePackages {
		for _, p := range pkgs[name].paths() {
			if strings.HasPrefix(p, "usr/bin/") || (name == "base-files" && keepOfBaseFiles(p)) {
				t.add(p, pkgs[name][p])
			}
		}
	}
	t.symlink("usr/bin/sh", "dash")
	t.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
	t.accounts("", 0, "")
	t.skeleton()
	return t
}

func keepOfBaseFiles(p string) bool {
	switch p {
	case "etc/debian_version", "etc/os-release", "usr/lib/os-release", "etc/host.conf":
		return true
	}
	return false
}

// withBusybox links every applet, as hard links like the real image's.
func withBusybox(t tree) {
	const bin = "usr/bin/busybox"
	for _, a := range applets(t[bin].data) {
		if a != "busybox" {
			t.hardlink("usr/bin/"+a, bin)
		}
	}
	if _, ok := t["usr/bin/printenv"]; !ok {
		t.file("usr/bin/printenv", 0o755, ownFile("printenv.sh"))
	}
	t.accounts("", 0, "")
	t.skeleton()
}

func withNginx(t tree) {
	for _, p := range t.paths() { // Debian's sites and modules are not the image's
		if strings.HasPrefix(p, "etc/nginx/") && p != "etc/nginx/mime.types" {
			delete(t, p)
		}
	}
	t.file("docker-entrypoint.sh", 0o755, ownFile("nginx-entrypoint.sh"))
	t.dir("docker-entrypoint.d", 0o755, 0, 0)
	t.file("etc/nginx/nginx.conf", 0o644, ownFile("nginx.conf"))
	t.file("etc/nginx/conf.d/default.conf", 0o644, ownFile("nginx-default.conf"))
	t.symlink("var/log/nginx/access.log", "/dev/stdout")
	t.symlink("var/log/nginx/error.log", "/dev/stderr")
	t.dir("var/lib/nginx", 0o755, 0, 0)
	t.dir("var/cache/nginx", 0o755, 0, 0)
	t.accounts("nginx", 101, "/nonexistent")
}

func withRedis(t tree) {
	t.file("usr/local/bin/docker-entrypoint.sh", 0o755, ownFile("redis-entrypoint.sh"))
	t.dir("data", 0o755, 999, 999)
	t.accounts("redis", 999, "/data")
}

func withStress(t tree) {
	t.symlink("usr/local/bin/stress", "/usr/bin/stress")
}

func withNonroot(t tree) {
	t.accounts("nonroot", 65532, "/home/nonroot")
	t.dir("home/nonroot", 0o700, 65532, 65532)
	t.skeleton()
}

// wanted says which files of a package an image gets.
func wanted(name, p string) bool {
	switch {
	case name == "util-linux":
		return p == "usr/bin/setpriv"
	case strings.HasPrefix(p, "usr/bin/"), strings.HasPrefix(p, "usr/sbin/"):
		return true
	case name == "nginx-common":
		return p == "etc/nginx/mime.types" || path.Dir(p) == "usr/share/nginx/html"
	}
	return false
}
