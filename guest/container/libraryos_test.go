package container

import (
	"strings"
	"testing"
)

func TestJoinLayers(t *testing.T) {
	if s, err := joinLayers([]string{"/a", "/b"}); err != nil || s != "/a:/b" {
		t.Errorf("%q, %v", s, err)
	}
	for name, l := range map[string][]string{
		"a colon": {"/a:b"}, "a backslash": {`/a\b`}, "too long": strings.Split(strings.Repeat("/layer,", 700), ","),
	} {
		if s, err := joinLayers(l); err == nil {
			t.Errorf("%s: %.100q", name, s)
		}
	}
}

// A limit that nobody would keep is refused; what is only a wish is not.
func TestLimitsOfALibraryOS(t *testing.T) {
	for name, l := range map[string]Limits{"memory": {MemoryBytes: 1 << 20}, "CPU time": {CPUQuota: 1000, CPUPeriod: 100000}} {
		if err := l.withinLibraryOS(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "library OS") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := newCgroup(t.TempDir(), "c", l, nil, true); err == nil {
			t.Errorf("%s: a group was made", name)
		}
	}
	if err := (&Limits{Pids: 10, CPUShares: 2}).withinLibraryOS(); err != nil {
		t.Error(err)
	}
}
