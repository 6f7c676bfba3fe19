package unpacker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/image/digest"
	. "github.com/cofferproject/coffer/test/imagetest"
)

// Each layer has a writer of its own, which is gone, or has the layer's directory as its
// root, when that is moved: a directory that is moved away under a process's root lets it
// out. One parser serves all layers.
func TestEachLayerHasAWriterOfItsOwn(t *testing.T) {
	r := NewRegistry(t)
	a, b, c := Tar(t, Entry{Name: "a", Data: "A"}), Tar(t, Entry{Name: "b", Data: "B"}), Tar(t, Entry{Name: "c", Data: strings.Repeat("C", 1<<20)})
	kid := "kbs:///default/key/1"
	m := r.Image(t, "v1", "{}", a.Gzip(t).Encrypt(t, kid, kek), b.Gzip(t).Encrypt(t, kid, kek), c.Gzip(t).Encrypt(t, kid, kek))
	var parsers atomic.Int32
	roots := make(chan string, 16)
	below := WithSupervisor(&proc.Supervisor{Exe: testExe(t), Reaper: reaper(), Log: slog.New(slog.DiscardHandler)}, 0)
	if cgo {
		below = execStarter(testExe(t))
	}
	s := newService(t, Options{Workers: 1, Warm: true, Start: func(name, root string, files []*os.File) (Process, error) {
		if name == WriterName {
			roots <- root
		} else {
			parsers.Add(1)
		}
		return below(name, root, files)
	}})
	if err := s.Warm(); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	req := request(t, r, m)
	req.KeySocket = keyHolder(t, &asked)
	img, err := s.Pull(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	close(roots)
	seen := map[string]bool{}
	for root := range roots {
		if seen[root] || filepath.Dir(root) != s.path("staging") {
			t.Errorf("a second writer has the root %s", root)
		}
		seen[root] = true
	}
	for _, l := range img.Layers {
		if was := s.path("staging", filepath.Base(l.Dir)); !seen[was] {
			t.Errorf("the layer %s was nobody's root: %v", l.Dir, seen)
		}
	}
	if len(seen) != 3 || parsers.Load() != 1 || asked.Load() != 3 {
		t.Errorf("%d writers, %d parsers, %d keys", len(seen), parsers.Load(), asked.Load())
	}
}

// What the trustee would have to release waits; what it would not does not.
func TestKeysWaitForWhoIsToAskForThem(t *testing.T) {
	r := NewRegistry(t)
	refused := errors.New("nobody has asked")
	var before atomic.Int32
	pull := func(encrypted bool) (int64, error) {
		l := Tar(t, Entry{Name: "a", Data: "A"}).Gzip(t)
		if encrypted {
			l = l.Encrypt(t, "kbs:///default/key/1", make([]byte, 32))
		}
		req := request(t, r, r.Image(t, "v1", "{}", l))
		var asked atomic.Int64
		req.KeySocket = keyHolder(t, &asked)
		key := req.KeySocket
		req.KeySocket = func(ctx context.Context, m digest.Digest) (*os.File, error) {
			asked.Add(1)
			return key(ctx, m)
		}
		req.BeforeKeys = func(context.Context) error {
			before.Add(1)
			return refused
		}
		_, err := newService(t, Options{}).Pull(t.Context(), req)
		return asked.Load(), err
	}
	if n, err := pull(true); !errors.Is(err, refused) || n != 0 || before.Load() != 1 {
		t.Errorf("an encrypted image: %v, %d keys, asked %d times before", err, n, before.Load())
	}
	if _, err := pull(false); err != nil || before.Load() != 1 {
		t.Errorf("an image without keys: %v, asked %d times before", err, before.Load())
	}
}
