package eventlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/refvalue"
)

// The registers that the other implementation's tests expect of its logs; their
// first four bytes are in our facts.
func TestVectorsReplayToTheExpectedRegisters(t *testing.T) {
	want := map[string][3]string{
		"CCEL_data_ovmf_out.json": {"8566f998", "775b9f6b", "94eaf7a7"},
		"CCEL_data_grub_out.json": {"cec0a104", "6c289e0c", "08919d01"},
	}
	for out, b := range ccelLogs(t) {
		w, ok := want[filepath.Base(out)]
		if !ok {
			continue
		}
		delete(want, filepath.Base(out))
		l, err := ParseCC(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.ReplayRTMRs(SHA384)
		if err != nil {
			t.Fatal(err)
		}
		for i := range w {
			if s := hex.EncodeToString(got[i]); !strings.HasPrefix(s, w[i]) {
				t.Errorf("%s: RTMR %d is %s, want %s...", out, i, s, w[i])
			}
		}
		if !bytes.Equal(got[3], make([]byte, 48)) {
			t.Errorf("%s: RTMR 3 is %x", out, got[3])
		}
	}
	if len(want) > 0 {
		t.Errorf("no log for %v", want)
	}
}

func TestWriterReader(t *testing.T) {
	b := SpecHeader(SHA384)
	for r := range uint32(4) {
		e := NewEvent(r+1, refvalue.Separator, []byte{0, 0, 0, byte(r)}, SHA384)
		b = e.Append(b)
	}
	l, err := ParseCC(append(bytes.Clone(b), Padding...))
	if err != nil {
		t.Fatal(err)
	}
	again := SpecHeader(l.Algorithms...)
	for i := range l.Events {
		again = l.Events[i].Append(again)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("written again: %x, want %x", again, b)
	}
	quoted, err := l.ReplayRTMRs(SHA384)
	if err != nil {
		t.Fatal(err)
	}
	for r := range quoted {
		sum := SHA384.Hash([]byte{0, 0, 0, byte(r)})
		if w := SHA384.Hash(append(make([]byte, 48), sum...)); !bytes.Equal(quoted[r], w) {
			t.Errorf("RTMR %d is %x, want %x", r, quoted[r], w)
		}
	}
	if err := l.CheckRTMRs(SHA384, quoted); err != nil {
		t.Error(err)
	}
	quoted[2] = make([]byte, 48)
	if e, ok := errors.AsType[*ErrRTMR](l.CheckRTMRs(SHA384, quoted)); !ok || e.Register != 2 {
		t.Errorf("RTMR 2 differs: %v", e)
	}
}

func TestAAELBehindItsOwnHeader(t *testing.T) {
	h := AAELHeader()
	if len(h) != 69 {
		t.Fatalf("header of %d bytes", len(h))
	}
	e := NewAAEL(4, "domain operation content", SHA384)
	if got := hex.EncodeToString(e.Data); got != "4c45414118000000646f6d61696e206f7065726174696f6e20636f6e74656e74" {
		t.Errorf("event data %s", got)
	}
	if got := hex.EncodeToString(e.Digests[0].Sum); got != "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa0609db7e49cd8d793f670d02" {
		t.Errorf("digest %s", got)
	}
	l, err := ParseCC(append(e.Append(h), Padding...))
	if err != nil {
		t.Fatal(err)
	}
	if d := l.Describe()[0]; !d.DigestMatchesEvent || d.Details["string"] != "domain operation content" {
		t.Errorf("described as %+v", d)
	}
	if _, err := l.ReplayRTMRs(SHA384); err != nil {
		t.Error(err)
	}
	if _, err := l.ReplayRTMRs(SM3); err == nil {
		t.Error("replays in a bank that its entry has no digest of")
	}
}

func TestWhatNoRegisterTakes(t *testing.T) {
	for name, e := range map[string]Event{
		"MRTD":                    NewEvent(0, refvalue.Separator, []byte{0}, SHA384),
		"register 5":              NewEvent(5, refvalue.Separator, []byte{0}, SHA384),
		"no action with a digest": NewEvent(1, refvalue.NoAction, []byte{0}, SHA384),
	} {
		l, err := ParseCC(e.Append(SpecHeader(SHA384)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.ReplayRTMRs(SHA384); err == nil {
			t.Errorf("%s: replays", name)
		}
	}
}

func TestDigestsOfAnEntry(t *testing.T) {
	e := NewEvent(1, refvalue.Separator, []byte{0}, SHA384)
	for name, algs := range map[string][]Algorithm{"none": {}, "not in the header": {SHA256}, "doubled": {SHA384, SHA384}} {
		e := NewEvent(1, refvalue.Separator, []byte{0}, algs...)
		if _, err := ParseCC(e.Append(SpecHeader(SHA384, SM3))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Parse(e.Append(SpecHeader(SHA384, SM3))); err == nil {
		t.Error("a TPM log's entry without a bank's digest is accepted")
	}
}

func TestTrimKeepsAnEventThatEndsInPadding(t *testing.T) {
	e := NewEvent(1, refvalue.Separator, []byte{1, 0xff, 0xff}, SHA384)
	b := e.Append(SpecHeader(SHA384))
	got, err := TrimCC(append(bytes.Clone(b), bytes.Repeat([]byte{0xff}, 100)...))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, want %d: %v", len(got), len(b), err)
	}
	if _, err := TrimCC(b[:len(b)-1]); err == nil {
		t.Error("a cut log is trimmed")
	}
}

func TestContentOfAAEL(t *testing.T) {
	deep := strings.Repeat("[", maxContentDepth) + strings.Repeat("]", maxContentDepth)
	for text, want := range map[string]any{
		`{"a":1}`: map[string]any{}, "plain": "plain", `{"a":1} x`: `{"a":1} x`, `"q"`: "q",
		`{"a":1e999}`: `{"a":1e999}`, `{"a":` + deep + `}`: `{"a":` + deep + `}`,
	} {
		got := content(text)
		if _, isMap := want.(map[string]any); isMap {
			if m, ok := got.(map[string]any); !ok || len(m) != 1 {
				t.Errorf("%s: %v", text, got)
			}
		} else if got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func BenchmarkReplayRTMRs(b *testing.B) {
	for out, raw := range ccelLogs(b) {
		b.Run(strings.TrimSuffix(filepath.Base(out), "_out.json"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l, err := ParseCC(raw)
				if err != nil {
					b.Fatal(err)
				}
				if len(l.Algorithms) == 0 {
					b.Fatal("no algorithm")
				}
				if _, err := l.ReplayRTMRs(l.Algorithms[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
