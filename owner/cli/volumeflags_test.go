package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/owner/spec"
)

func TestVolumeFlags(t *testing.T) {
	v := volumeFlags{keys: []string{"data=kbs:///a/b/c"}, fresh: []string{"data"}, sizes: []string{"data=10Gi"}, scratch: []string{"tmp"}}
	got, err := v.disks()
	if err != nil || len(got) != 2 || got["data"] != (spec.Disk{Key: "kbs:///a/b/c", New: true, Bytes: 10 << 30}) || got["tmp"] != (spec.Disk{}) {
		t.Errorf("%+v, %v", got, err)
	}
	for want, v := range map[string]volumeFlags{
		"--volume-key \"data\"":         {keys: []string{"data"}},
		"--volume-key \"=kbs:///a\"":    {keys: []string{"=kbs:///a"}},
		"--volume-new data":             {fresh: []string{"data"}},
		"--volume-size \"data=lots\"":   {keys: v.keys, sizes: []string{"data=lots"}},
		"--volume-size \"data=-1\"":     {keys: v.keys, sizes: []string{"data=-1"}},
		"--volume-size tmp: only for a": {sizes: []string{"tmp=1Gi"}},
		"--volume-on-disk data: it has": {keys: v.keys, scratch: []string{"data"}},
	} {
		if _, err := v.disks(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for size, want := range map[string]int64{"": 0, "4Gi": 4 << 30, "0": -1, "-1": -1, "much": -1} {
		v := volumeFlags{images: size}
		if n, err := v.imagesOnDisk(); n != max(want, 0) || (err == nil) != (want >= 0) {
			t.Errorf("%q: %d, %v", size, n, err)
		}
	}
	files, err := parseVolumes([]string{"data=./x", "logs=/y"})
	if err != nil || !filepath.IsAbs(files["data"]) || files["logs"] != "/y" {
		t.Errorf("%v, %v", files, err)
	}
	for _, list := range [][]string{{"data"}, {"data="}, {"=x"}, {"data=x", "data=y"}} {
		if _, err := parseVolumes(list); err == nil {
			t.Errorf("%v was accepted", list)
		}
	}
}
