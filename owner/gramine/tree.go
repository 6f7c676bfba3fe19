package gramine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/unpack"
	"github.com/cofferproject/coffer/owner/image"
)

// Bounds of a tree.
const (
	maxNames  = 500_000
	maxBytes  = 16 << 30 // of one layer, unpacked
	maxLinks  = 40       // symbolic links on the way to one file, as Linux has it
	blobsDir  = "blobs"
	rootfsDir = "rootfs"
)

// Tree holds an image's files while its layers come in, lowest first. Contents are
// in a folder; names and digests are in memory.
type Tree struct {
	dir   *os.Root
	nodes map[string]*node // path relative to the root, without links in the image's own sense
	blobs int
}

type node struct {
	kind   layerstream.Type // Dir, File, Symlink, or a kind that no enclave opens
	mode   uint16
	link   string
	blob   string
	sha256 string // hex
	size   int64
}

// File is one name that a program can open.
type File struct {
	Path   string // relative to the root
	SHA256 string // hex
	Size   int64  // bytes
	blob   string
}

// NewTree makes an empty tree that keeps contents in dir, which must be empty.
func NewTree(dir *os.Root) (*Tree, error) {
	if err := dir.Mkdir(blobsDir, 0o700); err != nil {
		return nil, err
	}
	return &Tree{dir: dir, nodes: map[string]*node{"": {kind: layerstream.Dir, mode: 0o755}}}, nil
}

// AddLayer puts a layer on top. src is read to its end and checked against diffID,
// the digest of the uncompressed tar; what names the layer in errors.
func (t *Tree) AddLayer(src io.Reader, what string, diffID digest.Digest) error {
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		_, err := unpack.Layer(src, what, diffID, layerstream.NewEncoder(w), unpack.Limits{MaxEntries: maxNames, MaxBytes: maxBytes})
		_ = w.CloseWithError(err)
		unpacked <- err
	}()
	l, err := t.read(layerstream.NewDecoder(r))
	_ = r.CloseWithError(err)
	if uerr := <-unpacked; uerr != nil {
		return uerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	t.merge(l)
	if len(t.nodes) > maxNames {
		return fmt.Errorf("%s: the image has more than %d names", what, maxNames)
	}
	return nil
}

// AddImage puts all layers of an image, none of them encrypted, on the empty tree, and
// gives its configuration. progress is told of each layer.
func (t *Tree) AddImage(ctx context.Context, src image.Source, m *manifest.Manifest, progress func(string)) (*manifest.Config, error) {
	doc, err := src.Document(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	cfg, err := manifest.ParseConfig(doc.Bytes, m)
	if err != nil {
		return nil, err
	}
	for i, l := range m.Layers {
		what := fmt.Sprintf("layer %d", i+1)
		progress(fmt.Sprintf("%s of %d: %d KiB", what, len(m.Layers), (l.Size+1023)/1024))
		blob, err := src.Blob(ctx, l)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(t.AddLayer(blob, what, cfg.RootFS.DiffIDs[i]), blob.Close()); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// layer is what one layer says, before it is put on the ones below.
type layer struct {
	nodes          map[string]*node
	hidden, opaque []string
}

func (t *Tree) read(d *layerstream.Decoder) (*layer, error) {
	l := &layer{nodes: map[string]*node{}}
	for {
		r, err := d.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		switch r.Type {
		case layerstream.Whiteout:
			l.hidden = append(l.hidden, r.Path)
			continue
		case layerstream.Opaque:
			l.opaque = append(l.opaque, r.Path)
			continue
		case layerstream.HardLink:
			n := l.nodes[r.Link]
			if n == nil || n.kind == layerstream.Dir {
				return nil, fmt.Errorf("%s is a link to %s, which the layer does not have before it", r.Path, r.Link)
			}
			l.put(r.Path, n)
			continue
		}
		n := &node{kind: r.Type, mode: r.Mode, link: r.Link}
		if r.Type == layerstream.File {
			if err := t.blob(n, d); err != nil {
				return nil, err
			}
		}
		l.put(r.Path, n)
	}
}

// put sets a name and the folders above it.
func (l *layer) put(p string, n *node) {
	for dir := parent(p); dir != ""; dir = parent(dir) {
		if x := l.nodes[dir]; x == nil || x.kind != layerstream.Dir {
			l.nodes[dir] = &node{kind: layerstream.Dir, mode: 0o755}
		}
	}
	if n.kind != layerstream.Dir {
		below(l.nodes, p)
	}
	l.nodes[p] = n
}

// blob stores a file's content and its digest.
func (t *Tree) blob(n *node, content io.Reader) error {
	n.blob = blobsDir + "/" + strconv.Itoa(t.blobs)
	t.blobs++
	f, err := t.dir.OpenFile(n.blob, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	n.size, err = io.Copy(io.MultiWriter(f, h), content)
	n.sha256 = hex.EncodeToString(h.Sum(nil))
	mode := os.FileMode(0o644)
	if n.mode&0o111 != 0 {
		mode = 0o755
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// merge puts a layer on the tree: what it hides goes first, and hides nothing of
// the layer's own.
func (t *Tree) merge(l *layer) {
	for _, p := range l.hidden {
		below(t.nodes, p)
		delete(t.nodes, p)
	}
	for _, p := range l.opaque {
		below(t.nodes, p)
	}
	for _, p := range slices.Sorted(maps.Keys(l.nodes)) {
		n := l.nodes[p]
		if n.kind != layerstream.Dir {
			below(t.nodes, p)
		}
		t.nodes[p] = n
	}
	if t.nodes[""] == nil {
		t.nodes[""] = &node{kind: layerstream.Dir}
	}
}

// below deletes everything under a folder; every one has a node of its own, so that
// most names cost nothing here.
func below(nodes map[string]*node, dir string) {
	if n := nodes[dir]; n == nil || n.kind != layerstream.Dir {
		return
	}
	for p := range nodes {
		if p != "" && (dir == "" || strings.HasPrefix(p, dir+"/")) {
			delete(nodes, p)
		}
	}
}

func parent(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

// Files gives every name of every regular file, sorted. A symbolic link is a name
// of what it leads to inside the image, a folder's link a name of all in it: the
// library OS looks files up by the names that it is given, before the host follows
// any link. Links to nowhere, out of the tree or in circles have no names.
func (t *Tree) Files() ([]File, error) {
	children := map[string][]string{}
	for p := range t.nodes {
		if p != "" {
			children[parent(p)] = append(children[parent(p)], path.Base(p))
		}
	}
	w := &walk{t: t, children: children}
	if err := w.dir("", "", nil); err != nil {
		return nil, err
	}
	slices.SortFunc(w.out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return w.out, nil
}

type walk struct {
	t        *Tree
	children map[string][]string
	out      []File
}

// dir lists the folder real under the name alias; above are the folders that it is
// listed from.
func (w *walk) dir(real, alias string, above []string) error {
	if slices.Contains(above, real) || len(above) > layerstream.MaxDepth {
		return nil
	}
	above = append(above, real)
	for _, name := range w.children[real] {
		p, to := path.Join(real, name), path.Join(alias, name)
		target, n := w.t.resolve(p)
		switch {
		case n == nil:
		case n.kind == layerstream.Dir:
			if err := w.dir(target, to, above); err != nil {
				return err
			}
		case n.kind == layerstream.File:
			if !utf8.ValidString(to) {
				return fmt.Errorf("%q: a name that is no UTF-8, which no manifest can have", to)
			}
			if len(w.out) == maxNames {
				return fmt.Errorf("the image's files have more than %d names, those by links included", maxNames)
			}
			w.out = append(w.out, File{Path: to, SHA256: n.sha256, Size: n.size, blob: n.blob})
		}
	}
	return nil
}

// resolve follows links inside the tree; nil: there is nothing.
func (t *Tree) resolve(p string) (string, *node) {
	rest, at := strings.Split(p, "/"), ""
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = parent(at)
			continue
		}
		next := path.Join(at, name)
		n := t.nodes[next]
		if n == nil {
			return "", nil
		}
		if n.kind != layerstream.Symlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", nil
		}
		if strings.HasPrefix(n.link, "/") {
			at = ""
		}
		rest = append(strings.Split(n.link, "/"), rest...)
	}
	return at, t.nodes[at]
}

// Content gives a file's content, at most limit bytes of it; p is relative to the
// root and may lead over links.
func (t *Tree) Content(p string, limit int64) ([]byte, error) {
	_, n := t.resolve(p)
	if n == nil || n.kind != layerstream.File {
		return nil, os.ErrNotExist
	}
	if n.size > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", p, n.size, limit)
	}
	f, err := t.dir.Open(n.blob)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// Write lays the files out under rootfs/ and drops what is not needed any more.
func (t *Tree) Write(files []File) error {
	if err := t.dir.Mkdir(rootfsDir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		to := rootfsDir + "/" + f.Path
		if err := t.dir.MkdirAll(path.Dir(to), 0o755); err != nil {
			return err
		}
		if err := t.dir.Link(f.blob, to); err != nil {
			return err
		}
	}
	return t.Drop()
}

// Drop deletes the stored contents that have no name under rootfs/.
func (t *Tree) Drop() error { return t.dir.RemoveAll(blobsDir) }
