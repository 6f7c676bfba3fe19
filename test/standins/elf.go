package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"strings"
)

// libraries adds to t every shared library that its programs need, from the
// pool of unpacked library packages, and what those need in turn. So an image
// holds the libraries it uses and not the packages they come in.
func (t tree) libraries(pool tree) error {
	byName := map[string]string{} // soname to path in the pool
	for _, p := range pool.paths() {
		if n := path.Base(p); strings.HasPrefix(p, "usr/lib") && (strings.Contains(n, ".so.") || strings.HasSuffix(n, ".so")) {
			if old, ok := byName[n]; !ok || len(p) < len(old) {
				byName[n] = p
			}
		}
	}
	var todo []string
	for _, p := range t.paths() {
		if isELF(t[p].data) {
			todo = append(todo, p)
		}
	}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		need, err := needed(t[p].data)
		if err != nil {
			return fmt.Errorf("reading %s: %w", p, err)
		}
		for _, so := range need {
			src, ok := byName[path.Base(so)]
			if !ok {
				return fmt.Errorf("%s needs %s, which is in none of the packages", p, so)
			}
			dst := src
			if strings.HasPrefix(so, "/") { // the interpreter, by its path
				dst = clean(so)
			}
			if t[dst] != nil {
				continue
			}
			data, err := resolve(pool, src)
			if err != nil {
				return err
			}
			t.add(dst, &node{mode: 0o755, data: data})
			todo = append(todo, dst)
		}
	}
	return nil
}

// resolve follows the links of a library (libz.so.1 to libz.so.1.2.13).
func resolve(pool tree, p string) ([]byte, error) {
	for range 8 {
		n := pool[p]
		switch {
		case n == nil:
			return nil, fmt.Errorf("%s: link to nothing", p)
		case n.link == "":
			return n.data, nil
		case strings.HasPrefix(n.link, "/"):
			p = clean(n.link)
		default:
			p = clean(path.Join(path.Dir(p), n.link))
		}
	}
	return nil, fmt.Errorf("%s: too many links", p)
}

// needed lists the libraries of a program: DT_NEEDED and its interpreter.
func needed(b []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	need, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			s := make([]byte, p.Filesz)
			if _, err := p.ReadAt(s, 0); err != nil {
				return nil, err
			}
			need = append(need, strings.TrimRight(string(s), "\x00"))
		}
	}
	return need, nil
}
