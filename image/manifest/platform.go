package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// Platform names what an image runs on, in Go's terms.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String gives "os/architecture[/variant]".
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ParsePlatform reads "os/architecture[/variant]".
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("platform %.80q: expected os/architecture[/variant]", s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.normal(), nil
}

// normal folds the spellings of one variant: arm64 means arm64/v8, amd64 means
// amd64/v1, arm means arm/v7.
func (p Platform) normal() Platform {
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// runsOn ranks how well an image for p serves a machine that is want: higher is
// better, negative not at all. Variants below the machine's are accepted.
func (p Platform) runsOn(want Platform) int {
	p, want = p.normal(), want.normal()
	if p.OS != want.OS || p.Architecture != want.Architecture {
		return -1
	}
	if p.Variant == want.Variant {
		return 100
	}
	v, w := level(p.Variant), level(want.Variant)
	if v < 0 || w < 0 || v > w {
		return -1
	}
	return v
}

// level gives the number in "v3"; "" is 1.
func level(variant string) int {
	if variant == "" {
		return 1
	}
	if len(variant) == 2 && variant[0] == 'v' && variant[1] >= '1' && variant[1] <= '9' {
		return int(variant[1] - '0')
	}
	return -1
}

// Choose gives the index's manifest for want: the best variant, the first of
// equals. Attestations and other attachments (platform unknown/unknown) never
// match.
func (x *Index) Choose(want Platform) (Descriptor, error) {
	best, rank := -1, -1
	var have []string
	for i := range x.Manifests {
		d := &x.Manifests[i]
		if d.MediaType != TypeOCIManifest && d.MediaType != TypeDockerManifest {
			continue // nested indexes and artifacts
		}
		if d.Platform == nil {
			// A list of one image without a platform is that image, as skopeo and
			// podman write single images in an OCI layout.
			if len(x.Manifests) == 1 {
				return *d, nil
			}
			continue
		}
		if len(have) < 20 {
			have = append(have, d.Platform.String())
		}
		if r := d.Platform.runsOn(want); r > rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		return Descriptor{}, fmt.Errorf("image index has no manifest for %s, only for %.400q", want, strings.Join(have, ", "))
	}
	return x.Manifests[best], nil
}
