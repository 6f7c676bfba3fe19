// Package cpio writes initial RAM disks in the "new ASCII" cpio format that
// the kernel reads (Documentation/driver-api/early-userspace/buffer-format).
//
// Invariant: the bytes depend on the entries and their order alone: inode
// numbers count up from 1, times and owners are zero, so that the same inputs
// give the same measurement.
//
// Trust zone: owner (build time).
package cpio

import (
	"bytes"
	"fmt"
	"path"
)

// Modes of the file types used here.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// Writer builds one archive in memory.
type Writer struct {
	buf  bytes.Buffer
	ino  int
	seen map[string]bool
	err  error
}

// New gives an empty archive.
func New() *Writer { return &Writer{seen: map[string]bool{}} }

// Dir adds a directory, and its parents where they are missing (mode 0755).
func (w *Writer) Dir(name string, perm uint32) {
	w.parents(name)
	w.entry(name, modeDir|perm, nil, 0, 0)
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, data []byte) {
	w.parents(name)
	w.entry(name, modeFile|perm, data, 0, 0)
}

// CharDev adds a character device.
func (w *Writer) CharDev(name string, perm uint32, major, minor int) {
	w.parents(name)
	w.entry(name, modeChar|perm, nil, major, minor)
}

// Bytes ends the archive and gives it.
func (w *Writer) Bytes() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	w.header("TRAILER!!!", 0, 0, 0, 0, 0)
	// Archives are padded to cpio's traditional block of 512 bytes.
	for w.buf.Len()%512 != 0 {
		w.buf.WriteByte(0)
	}
	return w.buf.Bytes(), w.err
}

func (w *Writer) parents(name string) {
	if d := path.Dir(name); d != "." && d != "/" && !w.seen[d] {
		w.Dir(d, 0o755)
	}
}

func (w *Writer) entry(name string, mode uint32, data []byte, major, minor int) {
	switch {
	case w.err != nil:
		return
	case name == "" || path.IsAbs(name) || path.Clean(name) != name || name == "TRAILER!!!":
		w.err = fmt.Errorf("cpio: name %q is not a clean relative path", name)
		return
	case w.seen[name]:
		w.err = fmt.Errorf("cpio: %q added twice", name)
		return
	case len(data) > 1<<30:
		w.err = fmt.Errorf("cpio: %q is larger than 1 GiB", name)
		return
	}
	w.seen[name] = true
	w.ino++
	w.header(name, w.ino, mode, len(data), major, minor)
	w.buf.Write(data)
	w.pad()
}

func (w *Writer) header(name string, ino int, mode uint32, size, major, minor int) {
	links := 1
	// Fields: inode, mode, uid, gid, links, mtime, size, device, special
	// device, length of the name with its NUL, checksum (unused).
	fmt.Fprintf(&w.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name)+1, 0)
	w.buf.WriteString(name)
	w.buf.WriteByte(0)
	w.pad()
}

func (w *Writer) pad() {
	for w.buf.Len()%4 != 0 {
		w.buf.WriteByte(0)
	}
}
