package configfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
)

// fake behaves like the kernel's folder: an entry has its attributes from the
// start, a write moves the generation, reading outblob makes the report.
type fake struct {
	mu       sync.Mutex
	provider string
	noAux    bool
	busy     int // so many outblob reads fail
	extra    int // other writers between
	long     bool
	entries  map[string]*fakeEntry
	removed  int
}

type fakeEntry struct {
	in         []byte
	generation int
}

func (f *fake) mkdir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.provider == "" {
		return syscall.ENXIO
	}
	if f.entries == nil {
		f.entries = map[string]*fakeEntry{}
	}
	if f.entries[name] != nil {
		return fs.ErrExist
	}
	f.entries[name] = &fakeEntry{}
	return nil
}

func (f *fake) rmdir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, name)
	f.removed++
	return nil
}

func (f *fake) read(p string, limit int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[path.Dir(p)]
	if e == nil {
		return nil, fs.ErrNotExist
	}
	switch path.Base(p) {
	case "provider":
		return []byte(f.provider + "\n"), nil
	case "generation":
		return []byte(strconv.Itoa(e.generation) + "\n"), nil
	case "outblob":
		if f.busy > 0 {
			f.busy--
			return nil, fmt.Errorf("reading: %w", syscall.EBUSY)
		}
		if f.long {
			return nil, errors.New("longer than allowed")
		}
		e.generation += f.extra
		return append([]byte("report over "), e.in...), nil
	case "auxblob":
		if f.noAux {
			return nil, fs.ErrNotExist
		}
		return []byte("table"), nil
	}
	return nil, fs.ErrNotExist
}

func (f *fake) write(p string, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entries[path.Dir(p)]
	e.in = bytes.Clone(b)
	e.generation++
	return nil
}

func TestReport(t *testing.T) {
	for _, noAux := range []bool{false, true} {
		f := &fake{provider: SNP, noAux: noAux, busy: 2}
		r, err := open(f, SNP)
		if err != nil {
			t.Fatal(err)
		}
		r.wait = 1
		out, aux, err := r.Report(context.Background(), []byte("nonce"))
		if err != nil || string(out) != "report over nonce" || (aux == nil) != noAux {
			t.Errorf("%q, %q, %v", out, aux, err)
		}
		if len(f.entries) > 0 || f.removed != 4 {
			t.Errorf("%d folders left, %d removed", len(f.entries), f.removed)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		f    *fake
		open bool // fails at open
	}{
		"another provider": {&fake{provider: TDX}, true},
		"no provider":      {&fake{}, true},
		"another writer":   {&fake{provider: SNP, extra: 1}, false},
		"always busy":      {&fake{provider: SNP, busy: 100}, false},
		"too long":         {&fake{provider: SNP, long: true}, false},
	} {
		r, err := open(c.f, SNP)
		if c.open {
			if !errors.Is(err, attest.ErrNotPresent) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.wait = 1
		if _, _, err := r.Report(context.Background(), make([]byte, 64)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if len(c.f.entries) > 0 {
			t.Errorf("%s: %d folders left", name, len(c.f.entries))
		}
	}
	r, err := open(&fake{provider: SNP}, SNP)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Report(context.Background(), make([]byte, 65)); err == nil {
		t.Error("65 bytes: accepted")
	}
}

func TestConcurrent(t *testing.T) {
	f := &fake{provider: CCA}
	r, err := open(f, CCA)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			in := fmt.Sprint("nonce ", i)
			if out, _, err := r.Report(context.Background(), []byte(in)); err != nil || !strings.HasSuffix(string(out), in) {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	wg.Wait()
}

// The kernel's side on plain files.
func TestFolder(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none"), SNP); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no folder: %v", err)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	k := kernel{root}
	if err := k.mkdir("e"); err != nil {
		t.Fatal(err)
	}
	if err := k.write("e/inblob", []byte("x")); err == nil {
		t.Error("an attribute was created")
	}
	if err := os.WriteFile(filepath.Join(dir, "e", "inblob"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := k.read("e/inblob", 3); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := k.read("e/inblob", 2); err == nil {
		t.Error("no bound")
	}
	if err := k.write("e/inblob", []byte("xyz")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "e", "inblob")); err != nil {
		t.Fatal(err)
	}
	if err := k.rmdir("e"); err != nil {
		t.Error(err)
	}
	if _, err := Open(dir, SNP); err == nil {
		t.Error("a folder whose entries have no attributes: accepted")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d folders left, %v", len(left), err)
	}
}
