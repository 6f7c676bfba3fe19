package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, c Config) *Log {
	t.Helper()
	if c.Now == nil {
		c.Now = time.Now
	}
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestChainSurvivesRestartTornLineAndRotation(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, MaxFile: 1000})
	var wg sync.WaitGroup
	for i := range 10 { // one by one, so that files fill up
		if err := l.Append(t.Context(), &Entry{Kind: KindRelease, Resource: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.Append(t.Context(), &Entry{Kind: KindRelease, Resource: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	l.Close()
	fs, err := files(dir)
	if err != nil || len(fs) < 2 {
		t.Fatalf("files %v, %v: want several", fs, err)
	}
	// What a crash in the middle of a write leaves.
	f, err := os.OpenFile(fs[len(fs)-1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"seq":51,"ti`)
	f.Close()
	l = open(t, Config{Dir: dir, MaxFile: 1000})
	e := &Entry{Kind: KindRelease}
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if e.Seq != 51 {
		t.Errorf("record after restart has number %d, want 51", e.Seq)
	}
	if n, err := Verify(dir); err != nil || n != 51 {
		t.Errorf("Verify: %d, %v", n, err)
	}
	lines, err := l.Read(45, 3, 1<<20)
	if err != nil || len(lines) != 3 || !strings.Contains(string(lines[0]), `"seq":46,`) {
		t.Errorf("Read(45, 3) = %d lines, %v", len(lines), err)
	}
}

func TestChangedLineIsFound(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	for range 3 {
		if err := l.Append(t.Context(), &Entry{Kind: KindRelease, Resource: "a/b/c"}); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	p := filepath.Join(dir, fileName(1))
	b, _ := os.ReadFile(p)
	if err := os.WriteFile(p, []byte(strings.Replace(string(b), "a/b/c", "x/y/z", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); err == nil {
		t.Error("Verify accepts a changed log")
	}
	if _, err := Open(Config{Dir: dir, Now: time.Now}); err == nil {
		t.Error("Open accepts a changed log")
	}
}

// faulty is a file whose disk is full or broken while the switch is on.
type faulty struct {
	*os.File
	on *bool
	at string
}

var errDisk = errors.New("no space left on device")

func (f faulty) Write(b []byte) (int, error) {
	if *f.on && f.at == "write" {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, errDisk
	}
	return f.File.Write(b)
}

func (f faulty) Sync() error {
	if *f.on && f.at == "sync" {
		return errDisk
	}
	return f.File.Sync()
}

func TestDiskFaultFailsTheAppendAndHeals(t *testing.T) {
	for _, at := range []string{"write", "sync"} {
		t.Run(at, func(t *testing.T) {
			dir, on := t.TempDir(), false
			l := open(t, Config{Dir: dir, open: func(p string, flag int) (file, error) {
				f, err := os.OpenFile(p, flag, 0o600)
				return faulty{f, &on, at}, err
			}})
			ok := func(want bool) {
				t.Helper()
				if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); (err == nil) != want {
					t.Fatalf("Append: %v", err)
				}
			}
			ok(true)
			on = true
			ok(false)
			ok(false)
			on = false
			ok(true)
			l.Close()
			if n, err := Verify(dir); err != nil || n != 2 {
				t.Errorf("Verify: %d records, %v; want the two acknowledged", n, err)
			}
		})
	}
}

func TestDenialsHaveABudget(t *testing.T) {
	now := time.Unix(1e9, 0)
	var mu sync.Mutex
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	l.budget.left = 2000
	recorded := 0
	for range 100 {
		ok, err := l.AppendDenial(t.Context(), &Entry{Reason: "unbound", Resource: "a/b/c"})
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			recorded++
		}
	}
	if recorded == 0 || recorded > 12 {
		t.Fatalf("%d of 100 refusals recorded with a budget of 2000 bytes", recorded)
	}
	if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err != nil {
		t.Errorf("a release is denied because refusals used their budget: %v", err)
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	if ok, err := l.AppendDenial(t.Context(), &Entry{Reason: "unbound"}); !ok || err != nil {
		t.Fatal("budget does not come back", err)
	}
	lines, _ := l.Read(0, 1000, 1<<20)
	if got := string(lines[len(lines)-2]); !strings.Contains(got, fmt.Sprintf(`"count":%d`, 100-recorded)) {
		t.Errorf("no count of what was suppressed: %s", got)
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := Open(Config{Dir: b.TempDir(), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(b.Context(), &Entry{Kind: KindRelease, Namespace: "default", Resource: "a/b/c"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestRefusalsDuringADiskFaultAreCounted(t *testing.T) {
	dir, on := t.TempDir(), false
	l := open(t, Config{Dir: dir, open: func(p string, flag int) (file, error) {
		f, err := os.OpenFile(p, flag, 0o600)
		return faulty{f, &on, "write"}, err
	}})
	deny := func(want bool) {
		t.Helper()
		if ok, err := l.AppendDenial(t.Context(), &Entry{Reason: "unbound"}); ok != want || (err == nil) != want {
			t.Fatalf("AppendDenial: %t, %v", ok, err)
		}
	}
	deny(true)
	on = true
	for range 10 {
		deny(false)
	}
	on = false
	deny(true)
	lines, err := l.Read(0, 100, 1<<20)
	if err != nil || len(lines) != 3 || !strings.Contains(string(lines[1]), `"count":10`) {
		t.Errorf("want the count of ten between the two refusals that were recorded: %q, %v", lines, err)
	}
}
