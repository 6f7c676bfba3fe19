package audit

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slow is a file whose sync takes until it is let go.
type slow struct {
	*os.File
	gate chan struct{}
	n    *atomic.Int64
}

func (s slow) Sync() error {
	<-s.gate
	s.n.Add(1)
	return s.File.Sync()
}

// What an outcome costs: no wait, and no sync of its own while there are others.
func TestLaterWaitsForNothing(t *testing.T) {
	gate, syncs := make(chan struct{}), new(atomic.Int64)
	var lost atomic.Int64
	l := open(t, Config{Dir: t.TempDir(), Lost: func() { lost.Add(1) }, open: func(p string, flag int) (file, error) {
		f, err := os.OpenFile(p, flag, 0o600)
		return slow{f, gate, syncs}, err
	}})
	got := make(chan error, 1)
	go func() { got <- l.Append(t.Context(), &Entry{Kind: KindRelease}) }() // is stuck in its sync
	for len(l.queue) > 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	for range 5 * maxGroup {
		l.AppendLater(&Entry{Kind: KindDelivered})
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("outcomes took %s while the disk hangs", d)
	}
	if lost.Load() == 0 {
		t.Error("there is room for everything: the log is unbounded")
	}
	close(gate)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	before := syncs.Load()
	for range 10 {
		l.AppendLater(&Entry{Kind: KindDelivered})
	}
	if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err != nil {
		t.Fatal(err)
	}
	if n := syncs.Load() - before; n > 2 {
		t.Errorf("%d syncs for 10 outcomes and one release", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines, err := l.Read(0, 10_000, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(5*maxGroup + 10 + 2); int64(len(lines))+lost.Load() != want {
		t.Errorf("%d records and %d lost of %d", len(lines), lost.Load(), want)
	}
}

// Without another record outcomes are on disk soon, and a fault loses none that it has
// room for.
func TestLaterComesByItself(t *testing.T) {
	dir, on := t.TempDir(), false
	var lost atomic.Int64
	l := open(t, Config{Dir: dir, Lost: func() { lost.Add(1) }, open: func(p string, flag int) (file, error) {
		f, err := os.OpenFile(p, flag, 0o600)
		return faulty{f, &on, "write"}, err
	}})
	count := func() int {
		lines, err := l.Read(0, 1000, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, b := range lines {
			if strings.Contains(string(b), KindDelivered) {
				n++
			}
		}
		return n
	}
	l.AppendLater(&Entry{Kind: KindDelivered, Resource: strings.Repeat("x", maxLine)})
	if lost.Load() != 1 {
		t.Error("a record that never fits is kept")
	}
	l.AppendLater(&Entry{Kind: KindDelivered})
	for until := time.Now().Add(10 * time.Second); count() < 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the outcome stays in memory")
		}
	}
	if err := l.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	on = true
	l.AppendLater(&Entry{Kind: KindDelivered})
	if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err == nil {
		t.Fatal("no fault")
	}
	on = false
	if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 || lost.Load() != 1 {
		t.Errorf("%d outcomes on disk, want 2", n)
	}
	if n, err := Verify(dir); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}
