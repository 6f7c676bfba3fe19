package aael

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// registers is a TEE's run-time registers in memory. They outlive the process
// that extends them, as hardware's do.
type registers struct {
	hash string
	v    map[int][]byte
	// fail, if set, says whether an Extend fails and whether it took effect.
	fail func() (err error, done bool)
	// during runs inside Extend, before the register changes.
	during func()
}

func newRegisters(hash string) *registers {
	a, _ := eventlog.ByName(hash)
	r := &registers{hash: hash, v: map[int][]byte{}}
	for i := range 24 {
		r.v[i] = make([]byte, a.Size())
	}
	return r
}

func (r *registers) Hash() string { return r.hash }

// Register maps as published for TDX: PCR 1 and 7 to RTMR 0, 2 to 6 to 1, 8 to
// 15 to 2, the rest to 3.
func (r *registers) Register(pcr int) (int, error) {
	switch {
	case pcr > 23:
		return 0, attest.ErrUnsupported
	case pcr == 1 || pcr == 7:
		return 0, nil
	case pcr >= 2 && pcr <= 6:
		return 1, nil
	case pcr >= 8 && pcr <= 15:
		return 2, nil
	}
	return 3, nil
}

func (r *registers) Extend(_ context.Context, i int, d []byte) error {
	if r.during != nil {
		r.during()
	}
	var err error
	if r.fail != nil {
		var done bool
		if err, done = r.fail(); !done {
			return err
		}
	}
	a, _ := eventlog.ByName(r.hash)
	r.v[i] = a.Hash(append(bytes.Clone(r.v[i]), d...))
	return err
}

func (r *registers) Read(_ context.Context, i int) ([]byte, error) { return r.v[i], nil }

func (r *registers) copy() *registers {
	return &registers{hash: r.hash, v: maps.Clone(r.v)}
}

var pull = Event{"github.com/confidential-containers", "PullImage", `{"image":"a/b:c", "digest":"sha256:00"}`}

func open(t *testing.T, dir string, r *registers) *Log {
	t.Helper()
	l, err := Open(t.Context(), dir, Options{Extender: r, FirstIndex: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// check demands that the log replays to the registers.
func check(t *testing.T, dir string, r *registers, events int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.ParseCC(append(eventlog.SpecHeader(eventlog.SHA384), b...))
	if err != nil {
		t.Fatal(err)
	}
	if len(log.Events) != events {
		t.Errorf("%d events, want %d", len(log.Events), events)
	}
	var quoted [eventlog.RTMRs][]byte
	for i := range quoted {
		quoted[i] = r.v[i]
	}
	if err := log.CheckRTMRs(eventlog.SHA384, quoted); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, walName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the announcement is still there: %v", err)
	}
}

func TestEventsReplay(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	l := open(t, dir, r)
	for _, pcr := range []int{DefaultPCR, DefaultPCR, 8, 7, 4} {
		if err := l.Extend(t.Context(), pcr, pull); err != nil {
			t.Fatal(err)
		}
	}
	check(t, dir, r, 5)
	b, err := l.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b, eventlog.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint32{4, 4, 3, 1, 2} {
		if got[i].Index != want || got[i].Event != pull {
			t.Errorf("entry %d is %+v, want index %d", i, got[i], want)
		}
	}
	// Another process goes on.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir, r).Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Fatal(err)
	}
	check(t, dir, r, 6)
}

// The published text with the published digest, in each bank.
func TestPublishedDigests(t *testing.T) {
	for hash, want := range map[string]string{
		"sha256": "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351",
		"sha384": "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa0609db7e49cd8d793f670d02",
		"sha512": "b708d222ca8bd44dfe6ba0c4ca2cbb72379276fba8091025217064be45a813e5d6124ccf073219edb617d1faf007d55061465bdf34b7437dbdc9a7405bd4e9c0",
	} {
		dir, r := t.TempDir(), newRegisters(hash)
		l := open(t, dir, r)
		if err := l.Extend(t.Context(), DefaultPCR, Event{"domain", "operation", "content"}); err != nil {
			t.Fatal(err)
		}
		b, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(hex.EncodeToString(b), want) {
			t.Errorf("%s: no digest %s in %x", hash, want, b)
		}
	}
}

// A process that dies at any moment leaves what the next one completes. The
// moments: each length of the new announcement before it is renamed; behind the
// rename; behind the extend; each length of the entry in the log; behind the
// entry.
func TestDeathAtEveryMoment(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	l := open(t, dir, r)
	if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Fatal(err)
	}
	logBefore := file(t, dir, logName)
	var wal []byte
	before := r.copy()
	r.during = func() { wal = file(t, dir, walName) }
	second := Event{"example.com", "start", "x y z"}
	if err := l.Extend(t.Context(), 8, second); err != nil {
		t.Fatal(err)
	}
	r.during = nil
	after, logAfter := r.copy(), file(t, dir, logName)
	check(t, dir, after, 2)

	start := func(name string, r *registers, log, wal, tmp []byte, events int) {
		t.Run(name, func(t *testing.T) {
			dir, r := t.TempDir(), r.copy()
			write(t, dir, logName, log)
			if wal != nil {
				write(t, dir, walName, wal)
			}
			if tmp != nil {
				write(t, dir, tmpName, tmp)
			}
			l := open(t, dir, r)
			check(t, dir, r, events)
			if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
				t.Fatal(err)
			}
			check(t, dir, r, events+1)
		})
	}
	for n := 0; n <= len(wal); n += 13 {
		start("announcement half written", before, logBefore, nil, wal[:n], 1)
	}
	start("announced", before, logBefore, wal, nil, 2)
	start("extended", after, logBefore, wal, nil, 2)
	for n := len(logBefore); n <= len(logAfter); n++ {
		start("entry half written", after, logAfter[:n], wal, nil, 2)
	}
	start("entry half written, then garbage", after, append(bytes.Clone(logAfter), 1, 2, 3), wal, nil, 2)
	start("done", after, logAfter, nil, nil, 2)
}

// What no death leaves behind is not repaired by guessing.
func TestForeignStateIsRefused(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	l := open(t, dir, r)
	if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Fatal(err)
	}
	var wal []byte
	log := file(t, dir, logName)
	r.during = func() { wal = file(t, dir, walName) }
	if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Fatal(err)
	}
	r.during = nil
	foreign := r.copy()
	foreign.v[3] = bytes.Repeat([]byte{7}, 48)
	bent := bytes.Clone(wal)
	bent[len(bent)-1] ^= 1
	for name, c := range map[string]struct {
		r        *registers
		log, wal []byte
	}{
		"register of somebody else": {foreign, log, wal},
		"announcement cut":          {r, log, wal[:len(wal)-1]},
		"announcement bent":         {r, log, bent},
		"announcement empty":        {r, log, []byte{}},
		"published form":            {r, log, append(make([]byte, 8), "domain op content"...)},
		"log shorter than announced": {
			r, nil, wal,
		},
		"log cut":     {r, log[:len(log)-1], nil},
		"log bent":    {r, append(bytes.Clone(log[:20]), log[21:]...), nil},
		"log too big": {r, bytes.Repeat(log, 1+(MaxSize+MaxContent)/len(log)), nil},
	} {
		dir := t.TempDir()
		write(t, dir, logName, c.log)
		if c.wal != nil {
			write(t, dir, walName, c.wal)
		}
		if l, err := Open(t.Context(), dir, Options{Extender: c.r.copy(), FirstIndex: 1}); err == nil {
			t.Errorf("%s: opened", name)
			_ = l.Close()
		}
	}
}

// An extend that fails, with and without effect, is completed by the next.
func TestFailedExtend(t *testing.T) {
	for _, done := range []bool{false, true} {
		dir, r := t.TempDir(), newRegisters("sha384")
		l := open(t, dir, r)
		r.fail = func() (error, bool) { return errors.New("busy"), done }
		if err := l.Extend(t.Context(), DefaultPCR, pull); err == nil {
			t.Fatal("no error")
		}
		r.fail = nil
		if err := l.Extend(t.Context(), 8, pull); err != nil {
			t.Fatal(err)
		}
		check(t, dir, r, 2)
	}
}

func TestRegisterChangedBetweenEvents(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	l := open(t, dir, r)
	if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Fatal(err)
	}
	r.v[3] = bytes.Repeat([]byte{1}, 48)
	if err := l.Extend(t.Context(), DefaultPCR, pull); !errors.Is(err, ErrRegister) {
		t.Errorf("got %v", err)
	}
}

// A log that is gone, shorter or longer than its register is noticed at once.
func TestOwnRegister(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	o := Options{Extender: r, FirstIndex: 1, Own: []int{3}}
	l, err := Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for _, pcr := range []int{DefaultPCR, 8, DefaultPCR} {
		if err := l.Extend(t.Context(), pcr, pull); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(file(t, dir, logName)))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole := file(t, dir, logName)
	for name, c := range map[string]struct {
		log  []byte
		good bool
	}{
		"whole":         {whole, true},
		"gone":          {nil, false},
		"an entry less": {whole[:sizes[1]], false},
		"one more":      {append(bytes.Clone(whole), whole[:sizes[0]]...), false},
		"another's too": {append(bytes.Clone(whole), whole[sizes[0]:sizes[1]]...), true}, // RTMR 2 has a history
	} {
		dir := t.TempDir()
		write(t, dir, logName, c.log)
		l, err := Open(t.Context(), dir, o)
		if c.good != (err == nil) || err != nil && !errors.Is(err, ErrRegister) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = l.Close()
		}
	}
}

func TestFull(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	l := open(t, dir, r)
	big := pull
	big.Content = strings.Repeat("x", MaxContent)
	for range MaxSize/MaxContent - 1 {
		if err := l.Extend(t.Context(), DefaultPCR, big); err != nil {
			t.Fatal(err)
		}
	}
	was := r.copy()
	if err := l.Extend(t.Context(), DefaultPCR, big); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(was.v[3], r.v[3]) {
		t.Error("a full log extended the register")
	}
	check(t, dir, r, MaxSize/MaxContent-1)
}

// A kernel without the register's file: the event never was, now and at the next
// start.
func TestRegisterThatCannotBeExtended(t *testing.T) {
	dir, r := t.TempDir(), newRegisters("sha384")
	r.fail = func() (error, bool) { return attest.ErrUnsupported, false }
	l := open(t, dir, r)
	if err := l.Extend(t.Context(), DefaultPCR, pull); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	check(t, dir, r, 0)
	// One that died after it had announced the event.
	e := eventlog.NewAAEL(4, "a b c", eventlog.SHA384)
	w := &wal{register: 3, before: make([]byte, 48), entry: e.Append(nil)}
	write(t, dir, walName, w.encode())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, r)
	check(t, dir, r, 0)
	r.fail = nil
	if err := l.Extend(t.Context(), DefaultPCR, pull); err != nil {
		t.Error(err)
	}
	check(t, dir, r, 1)
}

func BenchmarkExtend(b *testing.B) {
	r := newRegisters("sha384")
	for b.Loop() {
		b.StopTimer()
		l, err := Open(b.Context(), b.TempDir(), Options{Extender: r, FirstIndex: 1})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := l.Extend(b.Context(), DefaultPCR, pull); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = l.Close()
		b.StartTimer()
	}
}

func file(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}
