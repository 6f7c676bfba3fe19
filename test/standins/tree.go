package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// node is one entry of an image's file system.
type node struct {
	mode fs.FileMode // type and permission bits
	uid  int
	gid  int
	data []byte // a regular file's content
	link string // target of a symbolic link, or path of a hard link's first name
	hard bool
}

// tree is a file system with a merged /usr: paths are relative, clean, and
// never begin with bin/, sbin/ or lib*/.
type tree map[string]*node

// merged are the folders at the root that are links into usr.
var merged = []string{"bin", "sbin", "lib", "lib64"}

func clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	for _, m := range merged {
		if p == m || strings.HasPrefix(p, m+"/") {
			return "usr/" + p
		}
	}
	return p
}

// add puts a node in place, with the folders above it.
func (t tree) add(p string, n *node) {
	p = clean(p)
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if t[d] == nil {
			t[d] = &node{mode: fs.ModeDir | 0o755}
		}
	}
	t[p] = n
}

func (t tree) file(p string, mode fs.FileMode, data string) {
	t.add(p, &node{mode: mode, data: []byte(data)})
}

func (t tree) dir(p string, mode fs.FileMode, uid, gid int) {
	t.add(p, &node{mode: fs.ModeDir | mode, uid: uid, gid: gid})
}

func (t tree) symlink(p, target string) {
	t.add(p, &node{mode: fs.ModeSymlink | 0o777, link: target})
}

func (t tree) hardlink(p, first string) {
	t.add(p, &node{mode: 0o755, link: clean(first), hard: true})
}

// usr adds the links of the merged /usr at the root.
func (t tree) usr() {
	for _, m := range merged {
		t[m] = &node{mode: fs.ModeSymlink | 0o777, link: "usr/" + m}
		if t["usr/"+m] == nil {
			t.add("usr/"+m, &node{mode: fs.ModeDir | 0o755})
		}
	}
}

func (t tree) paths() []string { return slices.Sorted(maps.Keys(t)) }

// load reads the unpacked package in root, without what no container needs.
func load(root string) (tree, error) {
	t := tree{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		rel = clean(rel)
		if skipped(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch info.Mode().Type() {
		case fs.ModeDir:
			if t[rel] == nil {
				t.dir(rel, info.Mode().Perm(), 0, 0)
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.symlink(rel, target)
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			// setuid and setgid bits are dropped: the stand-ins need none.
			t.add(rel, &node{mode: info.Mode().Perm(), data: b})
		default:
			return fmt.Errorf("%s: %v is not expected in a package", rel, info.Mode())
		}
		return nil
	})
	return t, err
}

func skipped(p string) bool {
	for _, d := range []string{"doc", "man", "info", "locale", "lintian", "bash-completion", "bug", "menu"} {
		if p == "usr/share/"+d {
			return true
		}
	}
	return p == "usr/lib/systemd" || p == "usr/share/systemd" || p == "etc/systemd" || p == "etc/init.d"
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }
