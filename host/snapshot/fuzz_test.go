package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever an image says its USER is, a root has lines of the right form, one for
// each name, and no number of the image's choice.
func FuzzUsers(f *testing.F) {
	for _, s := range []string{"", "app", "app:staff", "1000", "1000:staff", "root", "a:b:c", "x\ny:0", "../../x", "a b", "-1:-1", "ü", "svc$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, user string) {
		r := roots{t.TempDir()}
		name, err := r.make([]string{user, user})
		if err != nil {
			t.Fatal(err)
		}
		for file, fields := range map[string]int{"passwd": 7, "group": 4} {
			b, err := os.ReadFile(filepath.Join(r.dir, name, "etc", file))
			if name == emptyRoot {
				if err == nil {
					t.Fatalf("the empty root has %q", b)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
			if len(b) > 0 && len(lines) != 1 {
				t.Fatalf("%s: %q", file, b)
			}
			for _, l := range lines {
				p := strings.Split(l, ":")
				if len(b) > 0 && (len(p) != fields || p[2] != "2147483646" && (p[0] != "root" || p[2] != "0") || !strings.Contains(user, p[0])) {
					t.Fatalf("%s: %q", file, l)
				}
			}
		}
	})
}

func FuzzFailedLayer(f *testing.F) {
	f.Add("extract-331256316-JTjB " + chain(1))
	f.Add("extract- " + chain(1))
	f.Add("extract-1 2 " + chain(1))
	f.Add("extract-1 sha256:")
	f.Add("something else")
	f.Fuzz(func(t *testing.T, key string) {
		l, ok := failedLayer(key)
		if ok && (!isLayer(l) || !strings.HasSuffix(key, " "+l) || !strings.HasPrefix(key, "extract-")) {
			t.Fatalf("%q gives %q", key, l)
		}
	})
}
