package aael

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/test/vectors"
)

func TestExplain(t *testing.T) {
	var log []byte
	value := make([]byte, 32)
	for _, s := range []string{"a b c", "d e f"} {
		e := eventlog.NewAAEL(15, s, eventlog.SHA256)
		log = e.Append(log)
		value = eventlog.SHA256.Hash(append(value, e.Digests[0].Sum...))
	}
	v, events, err := Explain(log, 15, eventlog.SHA256)
	if err != nil || !bytes.Equal(v, value) || len(events) != 2 {
		t.Errorf("%x, %d events, %v", v, len(events), err)
	}
	if v, events, err := Explain(nil, 15, eventlog.SHA256); err != nil || !bytes.Equal(v, make([]byte, 32)) || len(events) != 0 {
		t.Errorf("no log: %x, %d events, %v", v, len(events), err)
	}
	text := bytes.Clone(log)
	text[len(text)-1] ^= 1
	for name, b := range map[string][]byte{"another register": log, "cut": log[:len(log)-1], "text that is not the digest's": text, "padding": append(bytes.Clone(log), eventlog.Padding...)} {
		register := uint32(15)
		if name == "another register" {
			register = 14
		}
		if _, _, err := Explain(b, register, eventlog.SHA256); err == nil {
			t.Errorf("%s: explained", name)
		}
	}
}

// The entries that the published agent wrote on a machine pass the strict check.
func TestCheckTakesThePublishedVector(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "eventlog"), "CCEL_AAEL_alibabacloud"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.ParseCC(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Events {
		if e := &l.Events[i]; Is(e) {
			if err := Check(e, eventlog.SHA384); err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
		}
	}
	if texts := Texts(l.Events); len(texts) != 2 {
		t.Errorf("%q", texts)
	}
}

func TestAround(t *testing.T) {
	quotes, grow := 0, 1
	var log []byte
	entries := func() ([]byte, error) { return bytes.Clone(log), nil }
	quote := func() error {
		quotes++
		if quotes <= grow {
			log = append(log, 1)
		}
		return nil
	}
	if b, err := Around(entries, quote); err != nil || quotes != 2 || !bytes.Equal(b, log) {
		t.Errorf("%x after %d quotes: %v", b, quotes, err)
	}
	quotes, grow = 0, 100
	if _, err := Around(entries, quote); err == nil || quotes != maxQuotes {
		t.Errorf("a log that always grows: %d quotes, %v", quotes, err)
	}
	quotes = 0
	if b, err := Around(nil, quote); b != nil || err != nil || quotes != 1 {
		t.Errorf("without a log: %x, %d quotes, %v", b, quotes, err)
	}
}

func TestTextThatReadersCouldSplit(t *testing.T) {
	good := []Event{pull, {"a", "b", ""}, {"a", "b", "c d  e\t"}, {"é.example", "öp", "ü"}}
	for _, e := range good {
		if _, err := e.Text(); err != nil {
			t.Errorf("%+v: %v", e, err)
		}
	}
	for _, e := range []Event{
		{"", "b", "c"},
		{"a", "", "c"},
		{"a b", "c", "d"},
		{"a", "b c", "d"},
		{"a\n", "b", "c"},
		{"a", "b\x00", "c"},
		{"a", "b", "c\nd"},
		{"a", "b", "c\r"},
		{"a", "b", "c\u2028d"},
		{"a", "b", "c\u0085d"},
		{"a", "b", "\xff"},
		{"\xff", "b", "c"},
		{strings.Repeat("a", maxWord+1), "b", "c"},
		{"a", "b", strings.Repeat("c", MaxContent+1)},
	} {
		if s, err := e.Text(); err == nil {
			t.Errorf("%+q is %q", e, s)
		}
	}
	l := open(t, t.TempDir(), newRegisters("sha384"))
	if err := l.Extend(t.Context(), DefaultPCR, Event{"a", "b", "c\nd"}); err == nil {
		t.Error("recorded")
	}
	if err := l.Extend(t.Context(), 99, pull); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("PCR 99: %v", err)
	}
}

func TestCCEventlog(t *testing.T) {
	entry := eventlog.NewAAEL(4, "a b c", eventlog.SHA384)
	entries := entry.Append(nil)
	ccel := append(eventlog.SpecHeader(eventlog.SHA384), eventlog.Padding...)
	ccel = append(ccel, eventlog.Padding...)
	for name, c := range map[string]struct {
		ccel, entries, want []byte
	}{
		"neither":  {nil, nil, nil},
		"firmware": {ccel, nil, ccel[:len(ccel)-8]},
		"both":     {ccel, entries, append(append(ccel[:len(ccel)-16:len(ccel)-16], entries...), eventlog.Padding...)},
		"entries":  {nil, entries, append(append(eventlog.AAELHeader(), entries...), eventlog.Padding...)},
	} {
		got, err := CCEventlog(c.ccel, c.entries)
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, want %x: %v", name, got, c.want, err)
		}
		if got != nil {
			if _, err := eventlog.ParseCC(got); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := CCEventlog(ccel[:40], nil); err == nil {
		t.Error("a cut firmware log is taken")
	}
}

func TestReadCCEL(t *testing.T) {
	dir := t.TempDir()
	if b, err := ReadCCEL(filepath.Join(dir, "none")); b != nil || err != nil {
		t.Errorf("%x, %v", b, err)
	}
	write(t, dir, "small", []byte{1, 2})
	if b, err := ReadCCEL(filepath.Join(dir, "small")); len(b) != 2 || err != nil {
		t.Errorf("%x, %v", b, err)
	}
	write(t, dir, "big", make([]byte, eventlog.MaxCCSize+1))
	if _, err := ReadCCEL(filepath.Join(dir, "big")); err == nil {
		t.Error("a log of any size is taken")
	}
}

func FuzzParse(f *testing.F) {
	e := eventlog.NewAAEL(4, "a b c", eventlog.SHA384)
	f.Add(e.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b, eventlog.SHA384)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range got {
			s, err := e.Text()
			if err != nil {
				t.Fatal(err)
			}
			ev := eventlog.NewAAEL(e.Index, s, eventlog.SHA384)
			again = ev.Append(again)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x becomes %x", b, again)
		}
	})
}

// What the trustee reads: no event may be shown whose digest is not its text's.
func FuzzExplain(f *testing.F) {
	e := eventlog.NewAAEL(15, "a b c", eventlog.SHA256)
	f.Add(e.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		value, events, err := Explain(b, 15, eventlog.SHA256)
		if err != nil {
			return
		}
		want := make([]byte, 32)
		for i := range events {
			if d := events[i].Describe(); !d.DigestMatchesEvent || d.Index != 15 || d.Details["unicode_name"] != "AAEL" {
				t.Errorf("%x shows %+v", b, d)
			}
			want = eventlog.SHA256.Hash(append(want, eventlog.SHA256.Hash(events[i].Data)...))
		}
		if !bytes.Equal(value, want) {
			t.Errorf("%x gives %x, want %x", b, value, want)
		}
	})
}
