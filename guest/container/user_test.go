package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment
broken line
web:x:33:34:web:/var/www:/bin/sh
negative:x:-1:0::/:
huge:x:4294967295:0::/:
1000:x:7:8:a name of digits:/seven:
nohome:x:50:50:::
`

const group = `root:x:0:
web:x:34:
extra:x:77:other,web
wheel:x:10:root
bad:x:no:web
`

func id32(n uint32) *uint32 { return &n }

func TestResolveUser(t *testing.T) {
	p, g := parsePasswd([]byte(passwd)), parseGroup([]byte(group))
	for name, c := range map[string]struct {
		user User
		want identity
		err  string
	}{
		"nothing is root":             {User{}, identity{0, 0, []uint32{0, 10}, "/root"}, ""},
		"name":                        {User{Spec: "web"}, identity{33, 34, []uint32{34, 77}, "/var/www"}, ""},
		"name and group":              {User{Spec: "web:extra"}, identity{33, 77, []uint32{77}, "/var/www"}, ""},
		"number with an entry":        {User{Spec: "33"}, identity{33, 34, []uint32{34, 77}, "/var/www"}, ""},
		"number without an entry":     {User{Spec: "1234:99"}, identity{1234, 99, []uint32{99}, "/"}, ""},
		"a name of digits":            {User{Spec: "1000"}, identity{7, 8, []uint32{8}, "/seven"}, ""},
		"uid is never a name":         {User{UID: id32(1000)}, identity{1000, 0, []uint32{0}, "/"}, ""},
		"uid takes its group":         {User{UID: id32(33)}, identity{33, 34, []uint32{34, 77}, "/var/www"}, ""},
		"uid wins over the image":     {User{Spec: "web", UID: id32(5), GID: id32(6), Groups: []uint32{9, 9}}, identity{5, 6, []uint32{6, 9}, "/"}, ""},
		"empty home":                  {User{Spec: "nohome"}, identity{50, 50, []uint32{50}, "/"}, ""},
		"unknown name":                {User{Spec: "nobody"}, identity{}, `user "nobody"`},
		"unknown group":               {User{Spec: "web:nogroup"}, identity{}, `group "nogroup"`},
		"empty group":                 {User{Spec: "web:"}, identity{}, "empty group"},
		"malformed entries are none":  {User{Spec: "huge"}, identity{}, `user "huge"`},
		"root is refused":             {User{NonRoot: true}, identity{}, "must not run as root"},
		"root by number is refused":   {User{Spec: "0", NonRoot: true}, identity{}, "must not run as root"},
		"root by uid is refused":      {User{UID: id32(0), NonRoot: true}, identity{}, "must not run as root"},
		"non-root passes":             {User{Spec: "web", NonRoot: true}, identity{33, 34, []uint32{34, 77}, "/var/www"}, ""},
		"a colon alone is an error":   {User{Spec: ":"}, identity{}, "empty group"},
		"group alone takes root":      {User{Spec: ":34"}, identity{0, 34, []uint32{10, 34}, "/root"}, ""},
		"the last id means no id":     {User{Spec: "4294967295"}, identity{}, `user "4294967295"`},
		"signs are no part of an id":  {User{Spec: "+5"}, identity{}, `user "+5"`},
		"groups of root from /etc":    {User{Groups: []uint32{3}}, identity{0, 0, []uint32{0, 3, 10}, "/root"}, ""},
		"a uid's group may be forced": {User{UID: id32(33), GID: id32(0)}, identity{33, 0, []uint32{0, 77}, "/var/www"}, ""},
	} {
		got, err := c.user.resolve(p, g)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || got.UID != c.want.UID || got.GID != c.want.GID || got.Home != c.want.Home || !slices.Equal(got.Groups, c.want.Groups) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestAccountFilesAreReadInsideTheImage(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		err  string
		n    int
	}{
		"absent":        {func(string) error { return nil }, "", 0},
		"present":       {func(d string) error { return os.WriteFile(d+"/passwd", []byte(passwd), 0o644) }, "", 4},
		"too large":     {func(d string) error { return os.WriteFile(d+"/passwd", make([]byte, maxAccountFile+1), 0o644) }, "larger", 0},
		"a directory":   {func(d string) error { return os.Mkdir(d+"/passwd", 0o755) }, "not a regular", 0},
		"leads outside": {func(d string) error { return os.Symlink("/etc/passwd", d+"/passwd") }, "", 0},
		"climbs out":    {func(d string) error { return os.Symlink("../../../../../../etc/passwd", d+"/passwd") }, "", 0},
		"a link inside": {func(d string) error {
			return errJoin(os.WriteFile(d+"/real", []byte(passwd), 0o644), os.Symlink("real", d+"/passwd"))
		}, "", 4},
	} {
		dir := t.TempDir()
		if err := errJoin(os.Mkdir(filepath.Join(dir, "etc"), 0o755), c.make(filepath.Join(dir, "etc"))); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := readAccounts(root)
		root.Close()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || len(got) != c.n {
			t.Errorf("%s: %d entries, %v, want %d", name, len(got), err, c.n)
		}
	}
}

func errJoin(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// FuzzAccounts feeds an image's account files and USER string.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte(passwd), []byte(group), "web:extra")
	f.Add([]byte("a:x:1:1::/\n"), []byte("a:x:1:a,,a\n"), "1:1")
	f.Add([]byte(""), []byte(""), "")
	f.Fuzz(func(t *testing.T, p, g []byte, spec string) {
		if len(p) > maxAccountFile || len(g) > maxAccountFile {
			return
		}
		u := User{Spec: spec, NonRoot: true}
		id, err := u.resolve(parsePasswd(p), parseGroup(g))
		if err != nil {
			return
		}
		if id.UID == 0 || id.UID >= 1<<31 || id.GID >= 1<<31 || id.Home == "" {
			t.Errorf("resolved to %+v", id)
		}
		if !slices.Contains(id.Groups, id.GID) || len(id.Groups) > maxGroups {
			t.Errorf("groups %v lack %d", id.Groups, id.GID)
		}
	})
}
