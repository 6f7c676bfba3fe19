// Package layerstream is the only language between the two halves of the
// unpacker: the parser, which reads hostile bytes and may write nothing, and
// the writer, which writes files and parses nothing but this.
//
// The stream is the magic "CLS1", then records, then one end record. A record is
// a header of 64 bytes (little endian), then path, link target and extended
// attributes with the lengths the header gives, then, for a file, exactly Size
// bytes of content. SPEC.md has the table.
//
// Invariants, checked by Encoder and Decoder alike: paths are relative, clean,
// without empty, "." or ".." components, at most MaxPath bytes and MaxDepth
// components; only fields that the type uses are set; every length is bounded
// before anything is allocated; the end record's counts are those of the stream,
// so a cut stream is never a whole one.
//
// Trust zone: guest (image), between its unprivileged parser and its writer.
package layerstream

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of the format.
const (
	MaxPath     = 4095
	MaxName     = 255
	MaxDepth    = 256
	MaxLink     = 4095
	MaxXattrs   = 64
	MaxXattrLen = 64 << 10 // bytes of all names and values of an entry
	maxXName    = 255
)

// Type is what a record makes.
type Type uint8

// Types. End is the last record of a stream.
const (
	Dir Type = 1 + iota
	File
	HardLink // Link is a path inside the layer
	Symlink  // Link is any text
	Char
	Block
	FIFO
	Whiteout // hides Path of the layers below
	Opaque   // hides everything below directory Path of the layers below
	End
)

var typeNames = [...]string{Dir: "directory", File: "file", HardLink: "hard link", Symlink: "symlink", Char: "character device",
	Block: "block device", FIFO: "fifo", Whiteout: "whiteout", Opaque: "opaque mark", End: "end"}

// String gives the type's name.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Record is one entry of a layer. The layer's root is Path "" and of type Dir.
type Record struct {
	Type         Type
	Mode         uint16 // permission, setuid, setgid and sticky bits as in chmod(2)
	UID, GID     uint32
	MTime        int64 // seconds
	MTimeNano    uint32
	Size         int64 // File: bytes of content; End: bytes of all files
	Major, Minor uint32
	Entries      uint64 // End: records before it
	Path, Link   string
	Xattrs       []Xattr
}

// check enforces the format's invariants.
func (r *Record) check() error {
	if r.Type < Dir || r.Type > End {
		return fmt.Errorf("record of %v", r.Type)
	}
	if err := checkPath(r.Path, r.Type == Dir || r.Type == Opaque || r.Type == End); err != nil {
		return err
	}
	if r.Mode > 0o7777 {
		return fmt.Errorf("mode %#o", r.Mode)
	}
	if r.MTimeNano > 999_999_999 {
		return fmt.Errorf("mtime with %d ns", r.MTimeNano)
	}
	if r.Size < 0 || (r.Size != 0 && r.Type != File && r.Type != End) {
		return fmt.Errorf("%v with size %d", r.Type, r.Size)
	}
	if (r.Major != 0 || r.Minor != 0) && r.Type != Char && r.Type != Block {
		return fmt.Errorf("%v with a device number", r.Type)
	}
	// Device 0/0 is overlayfs's whiteout: only the Whiteout type may make one.
	if r.Type == Char && r.Major == 0 && r.Minor == 0 {
		return errors.New("character device 0/0: overlayfs would take it for a whiteout")
	}
	switch r.Type {
	case HardLink:
		if err := checkPath(r.Link, false); err != nil {
			return fmt.Errorf("link target: %w", err)
		}
	case Symlink:
		if r.Link == "" || len(r.Link) > MaxLink || strings.IndexByte(r.Link, 0) >= 0 {
			return fmt.Errorf("symlink target of %d bytes", len(r.Link))
		}
	default:
		if r.Link != "" {
			return fmt.Errorf("%v with a link target", r.Type)
		}
	}
	if r.Type != End && r.Entries != 0 || r.Type == End && !r.onlyTotals() {
		return errors.New("fields of another type are set")
	}
	return r.checkXattrs()
}

// onlyTotals says whether nothing is set but what an end record counts.
func (r *Record) onlyTotals() bool {
	return r.Path == "" && r.Mode == 0 && r.UID == 0 && r.GID == 0 && r.MTime == 0 && r.MTimeNano == 0
}

func (r *Record) checkXattrs() error {
	if len(r.Xattrs) == 0 {
		return nil
	}
	if r.Type != File && r.Type != Dir {
		return fmt.Errorf("%v with extended attributes", r.Type)
	}
	if len(r.Xattrs) > MaxXattrs {
		return fmt.Errorf("%d extended attributes: more than %d", len(r.Xattrs), MaxXattrs)
	}
	total := 0
	for i := range r.Xattrs {
		x := &r.Xattrs[i]
		if !AllowedXattr(x.Name) || len(x.Name) > maxXName || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("extended attribute %.60q is not allowed", x.Name)
		}
		if total += len(x.Name) + len(x.Value); total > MaxXattrLen {
			return fmt.Errorf("extended attributes of more than %d bytes", MaxXattrLen)
		}
	}
	return nil
}

// AllowedXattr says which extended attributes of an image are kept: file
// capabilities and user attributes. What would talk to overlayfs (its trusted
// and user attributes decide what a merged directory shows) or to the kernel's
// integrity and label modules is not the image's to set.
func AllowedXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && len(name) > len("user.") && !strings.HasPrefix(name, "user.overlay.")
}

func checkPath(p string, rootToo bool) error {
	if p == "" {
		if rootToo {
			return nil
		}
		return errors.New("empty path")
	}
	if len(p) > MaxPath {
		return fmt.Errorf("path of %d bytes: more than %d", len(p), MaxPath)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return errors.New("path with a zero byte")
	}
	depth := 0
	for c := range strings.SplitSeq(p, "/") {
		if depth++; depth > MaxDepth {
			return fmt.Errorf("path %.80q... is deeper than %d", p, MaxDepth)
		}
		if c == "" || c == "." || c == ".." {
			return fmt.Errorf("path %.200q has component %q", p, c)
		}
		if len(c) > MaxName {
			return fmt.Errorf("path %.80q... has a name of %d bytes: more than %d", p, len(c), MaxName)
		}
	}
	return nil
}
