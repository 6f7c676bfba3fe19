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
	if strings.Join(names, " ") != "data spool raw ref" || len(serials) != 4 {
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

func TestImagesVolume(t *testing.T) {
	images := Volume{Name: ImagesVolume, Kind: VolumeDisk, SizeLimit: MinDisk}
	p := testPolicy()
	p.Volumes = append(p.Volumes, images)
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(p *Policy, v *Volume){
		"key, sealing: images":       func(_ *Policy, v *Volume) { v.Key = "kbs:///a/b/c" },
		"kind: the name is that":     func(_ *Policy, v *Volume) { *v = Volume{Name: ImagesVolume, Kind: VolumeEmptyDir} },
		"no container mounts the di": func(p *Policy, _ *Volume) { p.Containers[0].Mounts[0].Volume = ImagesVolume },
		"size_limit":                 func(_ *Policy, v *Volume) { v.SizeLimit = 0 },
	} {
		p := testPolicy()
		p.Volumes = append(p.Volumes, images)
		change(p, &p.Volumes[len(p.Volumes)-1])
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
