package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/owner/gramine"
	"github.com/cofferproject/coffer/owner/image"
	"github.com/cofferproject/coffer/owner/spec"
)

// EnclaveOptions say for which container of a sealed pod an enclave is made, and of
// what beside it.
type EnclaveOptions struct {
	File      string // sealed manifest; "-": standard input
	Container string // ""; the pod's only one
	Images    ImageOptions
	LibOS     string            // file: the library OS
	Runtime   string            // folder: its C library and loader; "": the image's own
	Out       string            // folder that is made
	Persist   map[string]string // volume: key (gramine.Input)

	EnclaveBytes   int64
	Threads        int
	ProductID, SVN uint16
}

// Enclave is what was written.
type Enclave struct {
	Manifest    string `json:"manifest"` // file
	Pod         string `json:"pod"`
	Container   string `json:"container"`
	Image       string `json:"image"` // by digest
	Encrypted   bool   `json:"encrypted"`
	Files       int    `json:"files"` // trusted ones
	EnclaveSize string `json:"enclave_size"`
	MaxThreads  int    `json:"max_threads"`
	// Notes say what the policy lets the host give and the enclave does not take.
	Notes []string `json:"notes,omitempty"`
}

const (
	manifestName = "container.manifest"
	libosDir     = "libos"
	maxPasswd    = 1 << 20
	maxRuntime   = 10_000 // files
)

// WriteEnclave writes a container's manifest for Gramine, and its files, into a new
// folder; nothing is left of it after an error.
func WriteEnclave(ctx context.Context, o *EnclaveOptions, progress func(string)) (_ *Enclave, err error) {
	src, err := loadSources(o.Images)
	if err != nil {
		return nil, &InputError{err}
	}
	local, err := serveLocal(ctx, src)
	if err != nil {
		return nil, err
	}
	defer local.close()
	p, err := loadPod(o.File)
	if err != nil {
		return nil, err
	}
	annotation := p.Annotations[initdata.AnnotationKey]
	if annotation == "" {
		return nil, &InputError{fmt.Errorf("%s: the pod is not sealed: what its containers may be is not yet said; coffer seal does", o.File)}
	}
	r, err := reopen(ctx, p, &PodOptions{}, src, annotation)
	if err != nil {
		return nil, err
	}
	c, err := pick(r.plan, o.Container)
	if err != nil {
		return nil, &InputError{err}
	}
	if err := os.Mkdir(o.Out, 0o700); err != nil {
		return nil, &InputError{fmt.Errorf("--out: %w", err)}
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(o.Out)
		}
	}()
	out, err := os.OpenRoot(o.Out)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	e := &enclave{o: o, out: out, src: src, plan: r.plan, c: c, progress: progress}
	return e.write(ctx)
}

// pick finds the container.
func pick(pl *spec.Plan, name string) (*spec.Container, error) {
	var names []string
	for _, c := range pl.All() {
		if c.Name == name || name == "" && len(pl.All()) == 1 {
			return c, nil
		}
		names = append(names, c.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("each container is an enclave of its own: say --container, one of %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("--container %s: the pod has %s", name, strings.Join(names, ", "))
}

type enclave struct {
	o        *EnclaveOptions
	out      *os.Root
	src      *sources
	plan     *spec.Plan
	c        *spec.Container
	progress func(string)
	in       gramine.Input
	tree     *gramine.Tree
}

func (e *enclave) write(ctx context.Context) (*Enclave, error) {
	o, c := e.o, e.c
	e.in = gramine.Input{
		Policy: e.plan.Policy(), Container: c.Policy(), Env: c.Env(), Entry: e.entry, User: e.user, Content: map[string]map[string][]byte{},
		Persist: o.Persist, EnclaveBytes: o.EnclaveBytes, Threads: o.Threads, ProductID: o.ProductID, SVN: o.SVN,
	}
	for _, m := range c.Policy().Mounts {
		e.in.Content[m.Volume] = e.plan.Content(m.Volume)
	}
	if err := e.libraryOS(); err != nil {
		return nil, &InputError{err}
	}
	if err := e.image(ctx); err != nil {
		return nil, err
	}
	res, err := gramine.Generate(&e.in)
	if err != nil {
		return nil, &InputError{err}
	}
	m := res.Manifest
	b, err := m.Encode()
	if err != nil {
		return nil, err
	}
	if err := e.tree.Write(e.in.Files); err != nil {
		return nil, err
	}
	if err := e.volumes(); err != nil {
		return nil, err
	}
	if err := errors.Join(e.out.WriteFile("hosts", res.Hosts, 0o644), e.out.WriteFile(manifestName, b, 0o644)); err != nil {
		return nil, err
	}
	return &Enclave{
		Manifest: filepath.Join(o.Out, manifestName), Pod: e.in.Policy.Pod, Container: c.Name, Image: c.Image, Encrypted: e.in.Encrypted,
		Files: len(m.SGX.TrustedFiles), EnclaveSize: m.SGX.EnclaveSize, MaxThreads: m.SGX.MaxThreads, Notes: res.Notes,
	}, nil
}

// libraryOS copies it and its C library: what is measured is what is there.
func (e *enclave) libraryOS() error {
	if err := e.out.Mkdir(libosDir, 0o755); err != nil {
		return err
	}
	name := path.Join(libosDir, filepath.Base(e.o.LibOS))
	sum, n, err := e.copy(e.o.LibOS, name)
	if err != nil {
		return fmt.Errorf("--libos: %w", err)
	}
	e.in.LibOS = gramine.File{Path: name, SHA256: sum, Size: n}
	if e.o.Runtime == "" {
		return nil
	}
	root, err := os.OpenRoot(e.o.Runtime)
	if err != nil {
		return fmt.Errorf("--runtime: %w", err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return e.out.MkdirAll(path.Join(gramine.RuntimeDir, p), 0o755)
		case len(e.in.Runtime) == maxRuntime:
			return fmt.Errorf("more than %d files", maxRuntime)
		}
		sum, n, err := e.copy(filepath.Join(e.o.Runtime, p), path.Join(gramine.RuntimeDir, p))
		e.in.Runtime = append(e.in.Runtime, gramine.File{Path: p, SHA256: sum, Size: n})
		return err
	})
	if err != nil {
		return fmt.Errorf("--runtime: %w", err)
	}
	if len(e.in.Runtime) == 0 {
		return fmt.Errorf("--runtime: no file in %s", e.o.Runtime)
	}
	return nil
}

// copy copies a file of the user's and hashes what it has copied.
func (e *enclave) copy(from, to string) (sum string, n int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	if st, err := in.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", 0, errors.Join(err, fmt.Errorf("%s: not a regular file", from))
	}
	f, err := e.out.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	n, err = io.Copy(io.MultiWriter(f, h), in)
	return hex.EncodeToString(h.Sum(nil)), n, errors.Join(err, f.Close())
}

// image reads the image's layers. Encrypted ones stay as they are: their files are
// put into the encrypted tree by who holds the key.
func (e *enclave) image(ctx context.Context) error {
	var err error
	if e.tree, err = gramine.NewTree(e.out); err != nil {
		return err
	}
	fail := func(err error) error { return &ImageError{Image: e.c.Image, Err: err} }
	ref, err := reference.Parse(e.c.Image)
	if err != nil {
		return fail(err)
	}
	ref = ref.WithDigest(digest.Digest(e.c.Policy().ManifestDigest))
	src, err := image.Open(image.Location{Kind: image.Registry, Ref: ref}, &image.Access{Conf: e.src.conf, Roots: e.src.roots, Auth: e.src.auth})
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	root, err := src.Root(ctx)
	if err != nil {
		return fail(err)
	}
	doc, err := manifest.Parse(root.Bytes, root.MediaType)
	if err != nil || doc.Manifest == nil {
		return fail(errors.Join(err, errors.New("not a manifest of one platform")))
	}
	plain := 0
	for _, l := range doc.Manifest.Layers {
		lt, err := manifest.ParseLayerType(l.MediaType)
		if err != nil {
			return fail(err)
		}
		if !lt.Encrypted {
			plain++
		}
	}
	if e.in.Encrypted = plain == 0; e.in.Encrypted {
		return nil
	}
	if plain != len(doc.Manifest.Layers) {
		return fail(errors.New("some of its layers are encrypted and others are not: an enclave's root is one or the other; encrypt all (coffer image encrypt)"))
	}
	if _, err := e.tree.AddImage(ctx, src, doc.Manifest, e.progress); err != nil {
		return fail(err)
	}
	if e.in.Files, err = e.tree.Files(); err != nil {
		return fail(err)
	}
	return nil
}

// entry finds the program that args[0] names, as execvp(3) does.
func (e *enclave) entry(arg string) (string, error) {
	var dirs []string
	switch {
	case path.IsAbs(arg):
		dirs = []string{"/"}
	case strings.Contains(arg, "/"):
		dirs = []string{e.c.Policy().Cwd}
	default:
		for _, kv := range e.c.Env() {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				dirs = strings.Split(v, ":")
			}
		}
	}
	if e.in.Encrypted {
		if !path.IsAbs(arg) {
			return "", fmt.Errorf("%s: the files of an encrypted image are not known here: give the command with its whole path", arg)
		}
		return path.Clean(arg), nil
	}
	for _, d := range dirs {
		p := path.Join("/", d, arg)
		for _, f := range e.in.Files {
			if f.Path == p[1:] {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s: the image has no such program", arg)
}

// user reads the image's USER string: names by the image's own files.
func (e *enclave) user(s string) (uid, gid uint32, ok bool) {
	name, group, hasGroup := strings.Cut(s, ":")
	if name == "" {
		name = "0"
	}
	uid, number := id(name)
	if line := e.lookup("etc/passwd", 7, func(f []string) bool { return f[0] == name || number && f[2] == name }); line != nil {
		u, okUID := id(line[2])
		g, okGID := id(line[3])
		if !okUID || !okGID {
			return 0, 0, false
		}
		uid, gid, number = u, g, true
	}
	if !number {
		return 0, 0, false
	}
	if !hasGroup {
		return uid, gid, true
	}
	if gid, ok = id(group); ok {
		return uid, gid, true
	}
	if line := e.lookup("etc/group", 4, func(f []string) bool { return f[0] == group }); line != nil {
		gid, ok = id(line[2])
	}
	return uid, gid, ok
}

func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// lookup gives the first line of a file of the image that fits, in its fields.
func (e *enclave) lookup(file string, fields int, fits func([]string) bool) []string {
	b, err := e.tree.Content(file, maxPasswd)
	if err != nil {
		return nil // scratch images have none
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(f) == fields && fits(f) {
			return f
		}
	}
	return nil
}

// volumes writes the files that the policy knows by digest, and makes the folders
// of encrypted ones.
func (e *enclave) volumes() error {
	for _, m := range e.in.Container.Mounts {
		if _, ok := e.in.Persist[m.Volume]; ok {
			if err := e.out.MkdirAll(path.Join("volumes", m.Volume, m.SubPath), 0o755); err != nil {
				return err
			}
		}
	}
	for volume, files := range e.in.Content {
		for name, content := range files {
			to := path.Join("volumes", volume, name)
			if err := e.out.MkdirAll(path.Dir(to), 0o755); err != nil {
				return err
			}
			if err := e.out.WriteFile(to, content, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
