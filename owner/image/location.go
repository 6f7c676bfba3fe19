// Package image is the owner's work on container images: encrypt layers for a
// key in the trustee, decrypt, inspect, and lend the same keys to other tools
// over the ocicrypt key provider protocol (shared spec guest-components, section
// 4). It also serves images from disk to a guest.
//
// Invariants: what is read is checked against its digest; an encrypted image has
// the same configuration, so the same diffIDs, as the plain one; plaintext layers
// and keys are written nowhere but where the owner asked; a layer that is
// encrypted already is refused, never wrapped twice.
//
// Trust zone: owner.
package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/image/reference"
)

// Kind is where an image lies.
type Kind string

// Kinds of locations.
const (
	Registry      Kind = "docker"
	OCI           Kind = "oci"            // a directory in OCI layout
	OCIArchive    Kind = "oci-archive"    // a tar of one
	DockerArchive Kind = "docker-archive" // what docker save writes
)

// Location names an image, as skopeo and podman write it: a registry reference
// (docker:// in front is allowed), oci:DIR[:TAG], oci-archive:FILE[:TAG] or
// docker-archive:FILE[:NAME].
type Location struct {
	Kind Kind
	Ref  reference.Reference // Registry
	Path string              // the others
	Tag  string              // which image of several; ""
}

// ParseLocation reads a location.
func ParseLocation(s string) (Location, error) {
	for _, k := range []Kind{OCIArchive, DockerArchive, OCI} {
		rest, ok := strings.CutPrefix(s, string(k)+":")
		if !ok {
			continue
		}
		l := Location{Kind: k, Path: rest}
		if k == DockerArchive {
			// The name may hold colons itself: the first one separates.
			l.Path, l.Tag, _ = strings.Cut(rest, ":")
		} else if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
			l.Path, l.Tag = rest[:i], rest[i+1:]
		}
		if l.Path == "" {
			return Location{}, fmt.Errorf("image location %q: no path", s)
		}
		return l, nil
	}
	name := strings.TrimPrefix(s, "docker://")
	r, err := reference.Parse(name)
	if err != nil {
		if strings.Contains(s, "/") && strings.HasPrefix(s, ".") || strings.HasPrefix(s, "/") {
			err = errors.Join(err, errors.New("for a path on disk put oci:, oci-archive: or docker-archive: in front"))
		}
		return Location{}, err
	}
	return Location{Kind: Registry, Ref: r}, nil
}

// String gives the location as ParseLocation reads it.
func (l Location) String() string {
	if l.Kind == Registry {
		return l.Ref.String()
	}
	s := string(l.Kind) + ":" + l.Path
	if l.Tag != "" {
		s += ":" + l.Tag
	}
	return s
}
