package apply

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/unpack"
)

// ent is one tar entry of a test layer.
type ent struct {
	name, link, data string
	typ              byte
	mode             int64
	uid, gid         int
	major, minor     int64
	x                map[string]string
}

func f(name, data string) ent        { return ent{name: name, data: data, typ: tar.TypeReg, mode: 0o644} }
func d(name string) ent              { return ent{name: name, typ: tar.TypeDir, mode: 0o755} }
func ln(name, to string) ent         { return ent{name: name, link: to, typ: tar.TypeSymlink, mode: 0o777} }
func hard(name, to string) ent       { return ent{name: name, link: to, typ: tar.TypeLink, mode: 0o644} }
func (e ent) with(fn func(*ent)) ent { fn(&e); return e }

var mtime = time.Unix(1_700_000_000, 123_000_000)

func makeTar(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.typ, Mode: e.mode, Uid: e.uid, Gid: e.gid, Size: int64(len(e.data)),
			ModTime: mtime, Format: tar.FormatPAX, Devmajor: e.major, Devminor: e.minor}
		for k, v := range e.x {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// run unpacks a tar into a new directory, parser to writer through a pipe.
func run(t testing.TB, blob []byte, diffID digest.Digest, lim unpack.Limits) (string, *Result, error) {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	old := unix.Umask(0)
	defer unix.Umask(old)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	perr := make(chan error, 1)
	go func() {
		_, err := unpack.Layer(bytes.NewReader(blob), "layer 0", diffID, layerstream.NewEncoder(pw), lim)
		pw.Close()
		perr <- err
	}()
	res, werr := Layer(pr, fd, Limits{})
	pr.Close()
	if err := <-perr; err != nil && !errors.Is(err, syscall.EPIPE) {
		return dir, nil, err
	}
	return dir, res, werr
}

// list describes a tree, one line an entry.
func list(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, de fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		s := fmt.Sprintf("%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" n%d %q", st.Nlink, b)
		case unix.S_IFLNK:
			l, _ := os.Readlink(p)
			s += " -> " + l
		case unix.S_IFCHR, unix.S_IFBLK:
			s += fmt.Sprintf(" dev %d/%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		buf := make([]byte, 256)
		for _, x := range []string{"user.k", "security.capability", "trusted.overlay.opaque"} {
			if n, err := unix.Lgetxattr(p, x, buf); err == nil {
				s += fmt.Sprintf(" %s=%q", x, buf[:n])
			}
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

const fileCap = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestLayers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, device nodes, trusted attributes")
	}
	long := strings.Repeat("d", 200) + "/" + strings.Repeat("e", 255)
	for name, c := range map[string]struct {
		ents []ent
		want []string
	}{
		"plain": {[]ent{d("./"), d("etc/"), f("./etc/a", "x"), f("/etc/b", ""), ln("etc/c", "/abs/olute"), hard("etc/h", "./etc/a")},
			[]string{`etc 40755 0:0`, `etc/a 100644 0:0 n2 "x"`, `etc/b 100644 0:0 n1 ""`, `etc/c 120777 0:0 -> /abs/olute`, `etc/h 100644 0:0 n2 "x"`}},
		"modes, owners, attributes": {[]ent{
			f("su", "x").with(func(e *ent) { e.mode, e.uid, e.gid = 0o6755, 5, 6 }),
			f("cap", "x").with(func(e *ent) {
				e.uid = 1
				e.x = map[string]string{"security.capability": fileCap, "user.k": "v", "trusted.overlay.opaque": "y", "security.selinux": "z"}
			}),
			d("t").with(func(e *ent) { e.mode, e.gid = 0o3777, 7 }), f("t/f", "").with(func(e *ent) { e.gid = 9 }),
			f("none", "x").with(func(e *ent) { e.mode = 0 }),
		}, []string{`cap 100644 1:0 n1 "x" user.k="v" security.capability=` + fmt.Sprintf("%q", fileCap), `none 100000 0:0 n1 "x"`, `su 106755 5:6 n1 "x"`, `t 43777 0:7`, `t/f 100644 0:9 n1 ""`}},
		"nodes": {[]ent{{name: "c", typ: tar.TypeChar, mode: 0o666, major: 1, minor: 3, gid: 5}, {name: "b", typ: tar.TypeBlock, mode: 0o600, major: 8, minor: 300}, {name: "p", typ: tar.TypeFifo, mode: 0o620}},
			[]string{`b 60600 0:0 dev 8/300`, `c 20666 0:5 dev 1/3`, `p 10620 0:0`}},
		"whiteouts": {[]ent{f("a/.wh.gone", ""), d("o"), f("o/.wh..wh..opq", ""), f("o/new", "n"), f(".wh..wh.plnk/123.456", "x"), f(".wh..wh.aufs", "")},
			[]string{`a 40755 0:0`, `a/gone 20000 0:0 dev 0/0`, `o 40755 0:0 trusted.overlay.opaque="y"`, `o/new 100644 0:0 n1 "n"`}},
		"whiteout hides only below": {[]ent{f("x", "1"), f(".wh.x", ""), f(".wh.y", ""), f("y", "2"), d("z"), f("z/i", "3"), f(".wh.z", ""), f(".wh.w", ""), d("w"), f("w/j", "4"), f(".wh.v", ""), f("v/k", "5")},
			[]string{`v 40755 0:0 trusted.overlay.opaque="y"`, `v/k 100644 0:0 n1 "5"`, `w 40755 0:0 trusted.overlay.opaque="y"`, `w/j 100644 0:0 n1 "4"`, `x 100644 0:0 n1 "1"`, `y 100644 0:0 n1 "2"`, `z 40755 0:0 trusted.overlay.opaque="y"`, `z/i 100644 0:0 n1 "3"`}},
		"duplicates": {[]ent{f("a", "1"), f("a", "2"), ln("b", "a"), f("b", "not through the link"), d("c"), f("c/x", "1"), f("c", "file now"), f("e", "file"), d("e"), f("e/y", "2"), d("g"), f("g/keep", "k"), d("g").with(func(e *ent) { e.mode = 0o700 }), f("h", "1"), hard("i", "h"), f("h", "2"), hard("i", "h")},
			[]string{`a 100644 0:0 n1 "2"`, `b 100644 0:0 n1 "not through the link"`, `c 100644 0:0 n1 "file now"`, `e 40755 0:0`, `e/y 100644 0:0 n1 "2"`, `g 40700 0:0`, `g/keep 100644 0:0 n1 "k"`, `h 100644 0:0 n2 "2"`, `i 100644 0:0 n2 "2"`}},
		"symlinked parent inside": {[]ent{d("usr"), d("usr/lib"), ln("lib", "usr/lib"), f("lib/a", "1"), ln("usr/up", "../usr/lib"), f("usr/up/b", "2")},
			[]string{`lib 120777 0:0 -> usr/lib`, `usr 40755 0:0`, `usr/lib 40755 0:0`, `usr/lib/a 100644 0:0 n1 "1"`, `usr/lib/b 100644 0:0 n1 "2"`, `usr/up 120777 0:0 -> ../usr/lib`}},
		"long names": {[]ent{f(long, "1")}, []string{long[:200] + ` 40755 0:0`, long + ` 100644 0:0 n1 "1"`}},
		"empty":      {nil, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			blob := makeTar(t, c.ents...)
			dir, res, err := run(t, blob, digest.FromBytes(blob), unpack.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Opaque) != 0 {
				t.Errorf("unmarked opaque directories %q", res.Opaque)
			}
			if got, want := list(t, dir), strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	blob := makeTar(t, d("./"), d("a"), f("a/x", "1"), d("a/b"), f("a/b/y", "1"), f("a/z", ""), ln("a/l", "x"), f("top", ""), d("a"), f("a/.wh.q", ""), f("a/b/c/deep", ""))
	dir, _, err := run(t, blob, digest.FromBytes(blob), unpack.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{".", "a", "a/x", "a/b", "a/b/y", "a/z", "a/l", "top"} {
		st, err := os.Lstat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		if !st.ModTime().Equal(mtime) {
			t.Errorf("%s: mtime %v", p, st.ModTime())
		}
	}
}

func TestMalformed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	outside := t.TempDir()
	for name, c := range map[string]struct {
		ents []ent
		want string
	}{
		"zip slip":                {[]ent{f("../x", "1")}, `".." component`},
		"zip slip inside":         {[]ent{f("a/../../x", "1")}, `".." component`},
		"hard link out":           {[]ent{hard("a", "../../etc/passwd")}, `".." component`},
		"hard link to nothing":    {[]ent{hard("a", "etc/passwd")}, "target"},
		"hard link over symlink":  {[]ent{ln("s", outside), hard("a", "s/x")}, "leads out"},
		"hard link to directory":  {[]ent{d("s"), hard("a", "s")}, "directory or whiteout"},
		"hard link to whiteout":   {[]ent{f(".wh.s", ""), hard("a", "s")}, "directory or whiteout"},
		"absolute symlink parent": {[]ent{ln("s", outside), f("s/x", "1")}, "leads out"},
		"relative symlink out":    {[]ent{ln("s", "../../.."), f("s/x", "1")}, "leads out"},
		"symlink chain out":       {[]ent{ln("a", "b"), ln("b", ".."), f("a/x", "1")}, "leads out"},
		"symlinked dir entry":     {[]ent{ln("s", outside), d("s/y")}, "leads out"},
		"whiteout through link":   {[]ent{ln("s", outside), f("s/.wh.x", "")}, "leads out"},
		"opaque through link":     {[]ent{ln("s", outside), f("s/.wh..wh..opq", "")}, "leads out"},
		"below a whiteout name":   {[]ent{f(".wh.x/y", "")}, "below whiteout"},
		"whiteout without a name": {[]ent{f("a/.wh.", "")}, "without a name"},
		"file as a directory":     {[]ent{f("a", "1"), f("a/b", "2")}, "not a directory"},
		"root as a file":          {[]ent{f(".", "1")}, ""},
		"overlay whiteout device": {[]ent{{name: "w", typ: tar.TypeChar}}, "whiteout"},
		"long name":               {[]ent{f(strings.Repeat("n", 256), "")}, "more than 255"},
		"deep":                    {[]ent{f(strings.Repeat("d/", 300)+"x", "")}, "deeper than 256"},
		"long path":               {[]ent{f(strings.Repeat(strings.Repeat("d", 250)+"/", 17)+"x", "")}, "more than 4095"},
	} {
		t.Run(name, func(t *testing.T) {
			blob := makeTar(t, c.ents...)
			_, _, err := run(t, blob, digest.FromBytes(blob), unpack.Limits{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("written outside the layer: %v", left)
	}
}

func TestNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var s bytes.Buffer
	blob := makeTar(t, f("big", strings.Repeat("x", 2<<20)))
	if _, err := unpack.Layer(bytes.NewReader(blob), "layer 0", digest.FromBytes(blob), layerstream.NewEncoder(&s), unpack.Limits{}); err != nil {
		t.Fatal(err)
	}
	_, err = Layer(&s, fd, Limits{})
	var ns *NoSpaceError
	if !errors.As(err, &ns) || ns.Total != 1<<20 || ns.Written != 1<<20 {
		t.Fatalf("%v", err)
	}
	t.Log(err)
}

func TestMarkOpaque(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := MarkOpaque(fd, []string{"", "a"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(list(t, dir), `a 40755 0:0 trusted.overlay.opaque="y"`) {
		t.Error(list(t, dir))
	}
	for _, bad := range []string{"s", "..", "/tmp", "missing"} {
		if err := MarkOpaque(fd, []string{bad}); err == nil {
			t.Errorf("marked %q", bad)
		}
	}
}
