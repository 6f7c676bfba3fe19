// Package kmod picks kernel modules out of an unpacked Debian kernel package.
// The package carries no modules.dep (depmod runs when it is installed), so the
// dependencies are read from each module's .modinfo section.
//
// Invariant: a module that is neither present nor built in is an error, never
// left out in silence: the guest loads no module after its start.
//
// Trust zone: owner (build time).
package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

const maxModule = 64 << 20

// Set is the modules of one kernel.
type Set struct {
	Release string            // kernel release, the folder's name
	paths   map[string]string // normalised name to file
	builtin map[string]bool
}

// Module is one module of a selection.
type Module struct {
	Name string // normalised, without suffix
	ELF  []byte // unpacked
}

// Open reads the index of the package unpacked in root. Exactly one kernel
// release must lie there.
func Open(root string) (*Set, error) {
	dirs, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("kernel modules: %d releases under %s, want exactly one", len(dirs), root)
	}
	s := &Set{Release: filepath.Base(dirs[0]), paths: map[string]string{}, builtin: map[string]bool{}}
	b, err := os.ReadFile(filepath.Join(dirs[0], "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	for _, l := range strings.Fields(string(b)) {
		s.builtin[nameOf(l)] = true
	}
	err = filepath.WalkDir(dirs[0], func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type().IsRegular() && (strings.HasSuffix(p, ".ko") || strings.HasSuffix(p, ".ko.xz")) {
			s.paths[nameOf(p)] = p
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	return s, nil
}

// Select gives the named modules and all they depend on, each after its
// dependencies; what is built into the kernel is left out.
func (s *Set) Select(names []string) ([]Module, error) {
	var out []Module
	done := map[string]bool{}
	var add func(name string, chain []string) error
	add = func(name string, chain []string) error {
		name = normal(name)
		if done[name] || s.builtin[name] {
			return nil
		}
		if slices.Contains(chain, name) {
			return fmt.Errorf("dependencies of %s are circular", chain[0])
		}
		p, ok := s.paths[name]
		if !ok {
			return fmt.Errorf("module %s (wanted by %s) is neither in kernel %s nor built into it",
				name, strings.Join(append(chain, "the guest image"), " < "), s.Release)
		}
		b, err := read(p)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		deps, err := Depends(b)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range deps {
			if err := add(d, append(chain[:len(chain):len(chain)], name)); err != nil {
				return err
			}
		}
		done[name] = true
		out = append(out, Module{Name: name, ELF: b})
		return nil
	}
	for _, n := range names {
		if err := add(n, nil); err != nil {
			return nil, fmt.Errorf("selecting kernel modules: %w", err)
		}
	}
	return out, nil
}

// signatureMagic ends a signed module.
const signatureMagic = "~Module signature appended~\n"

// Unsigned gives a module without the distribution's appended signature (Linux,
// struct module_signature), or as it is if it has none. The initrd that carries
// the module is measured whole, so the signature proves nothing more to anybody,
// and the guest would check one elliptic curve signature for each module at each
// boot.
func Unsigned(module []byte) ([]byte, error) {
	b, ok := bytes.CutSuffix(module, []byte(signatureMagic))
	if !ok {
		return module, nil
	}
	const trailer = 12 // algo, hash, id type, signer length, key id length, 3 of padding, length
	if len(b) < trailer {
		return nil, errors.New("reading module signature: cut")
	}
	t := b[len(b)-trailer:]
	n := int64(trailer) + int64(t[3]) + int64(t[4]) + int64(binary.BigEndian.Uint32(t[8:]))
	if n > int64(len(b)) {
		return nil, errors.New("reading module signature: longer than the module")
	}
	return b[:int64(len(b))-n], nil
}

// WithoutBTF gives a module whose section of BTF types is empty. Only tracing
// and BPF programs that name a module's types read them, which no guest has; the
// kernel would check and sort them for each module at each boot.
func WithoutBTF(module []byte) ([]byte, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, errors.New("reading module: not a 64-bit little-endian ELF file")
	}
	out := bytes.Clone(module)
	var h elf.Header64
	if err := binary.Read(bytes.NewReader(module), binary.LittleEndian, &h); err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	const sizeField = 32 // of sh_size in Elf64_Shdr
	for i, s := range f.Sections {
		if s.Name != ".BTF" {
			continue
		}
		at := h.Shoff + uint64(i)*uint64(h.Shentsize) + sizeField
		end := s.Offset + s.FileSize
		if at+8 > uint64(len(out)) || end < s.Offset || end > uint64(len(out)) {
			return nil, errors.New("reading module: a section lies outside")
		}
		clear(out[s.Offset:end])
		binary.LittleEndian.PutUint64(out[at:], 0)
	}
	return out, nil
}

// Depends reads the "depends" entry of a module's .modinfo section.
func Depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	defer f.Close()
	sec := f.Section(".modinfo")
	if sec == nil {
		return nil, errors.New("reading module: no .modinfo section")
	}
	b, err := sec.Data()
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	for _, kv := range strings.Split(string(b), "\x00") {
		if v, ok := strings.CutPrefix(kv, "depends="); ok && v != "" {
			return strings.Split(v, ","), nil
		}
	}
	return nil, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".xz") {
		if r, err = xz.NewReader(f); err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("larger than %d bytes", maxModule)
	}
	if b, err = Unsigned(b); err != nil {
		return nil, err
	}
	return WithoutBTF(b)
}

func nameOf(path string) string {
	n, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return normal(n)
}

// normal makes names comparable: the kernel takes - and _ for the same.
func normal(n string) string { return strings.ReplaceAll(n, "-", "_") }
