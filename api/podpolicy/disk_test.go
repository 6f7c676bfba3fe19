package podpolicy

import (
	"strings"
	"testing"
)

func TestDisks(t *testing.T) {
	p := testPolicy()
	var names []string
	serials := map[string]bool{}
	for _, v := range p.Disks() {
		names = append(names, v.Name)
		serials[DiskSerial(v.Name)] = true
	}
	if strings.Join(names, " ") != "data spool" || len(serials) != 2 {
		t.Errorf("%v, %v", names, serials)
	}
	// virtio has room for 20 characters, and a name that is longer would be cut.
	for _, s := range []string{DiskSerial("data"), DiskSerial(strings.Repeat("x", 63)), ClaimSerial(0), ClaimSerial(MaxDisks - 1)} {
		if len(s) > 20 || !strings.HasPrefix(s, DiskSerials) {
			t.Errorf("serial number %q", s)
		}
	}
	for range MaxDisks {
		p.Volumes = append(p.Volumes, Volume{Name: "more" + strings.Repeat("x", len(p.Volumes)), Kind: VolumeDisk, SizeLimit: MinDisk})
	}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "disks") {
		t.Errorf("%d disks: %v", len(p.Disks()), err)
	}
}
