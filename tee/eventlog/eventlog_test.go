package eventlog

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/test/vectors"
)

// ccelLogs maps each vector to the file of its expected events.
func ccelLogs(t testing.TB) map[string][]byte {
	dir := vectors.Dir(t, "eventlog")
	outs, err := filepath.Glob(filepath.Join(dir, "*_out.json"))
	if err != nil || len(outs) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	m := map[string][]byte{}
	for _, out := range outs {
		name := strings.TrimSuffix(out, "_out.json")
		b, err := os.ReadFile(name)
		if err != nil {
			z, err := os.ReadFile(name + ".gz")
			if err != nil {
				t.Fatal(err)
			}
			r, err := gzip.NewReader(bytes.NewReader(z))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		m[out] = b
	}
	return m
}

func TestVectorsParseToTheExpectedEvents(t *testing.T) {
	for out, b := range ccelLogs(t) {
		t.Run(filepath.Base(out), func(t *testing.T) {
			l, err := ParseCC(b)
			if err != nil {
				t.Fatal(err)
			}
			var got []Description
			for i := range l.Events {
				got = append(got, l.Events[i].Describe())
			}
			raw, err := json.Marshal(map[string]any{"uefi_event_logs": got})
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			var g, w map[string][]any
			if json.Unmarshal(raw, &g) != nil || json.Unmarshal(want, &w) != nil {
				t.Fatal("not JSON")
			}
			ge, we := g["uefi_event_logs"], w["uefi_event_logs"]
			if len(ge) != len(we) {
				t.Errorf("%d events, want %d", len(ge), len(we))
			}
			for i := range min(len(ge), len(we)) {
				if !reflect.DeepEqual(ge[i], we[i]) {
					a, _ := json.Marshal(ge[i])
					b, _ := json.Marshal(we[i])
					t.Errorf("event %d:\n got %s\nwant %s", i, a, b)
				}
			}
		})
	}
}

// A log that is cut anywhere inside an entry is an error; cut between two
// entries it is a shorter log, which replay tells from the quoted registers.
func TestCutLogs(t *testing.T) {
	for _, b := range ccelLogs(t) {
		full, err := ParseCC(b)
		if err != nil {
			t.Fatal(err)
		}
		end := len(bytes.TrimRight(b, "\xff"))
		good := 0
		for n := range end {
			if l, err := Parse(b[:n]); err == nil {
				good++
				if len(l.Events) >= len(full.Events) {
					t.Errorf("cut at %d of %d: still %d events", n, end, len(l.Events))
				}
			}
		}
		if good > len(full.Events) {
			t.Errorf("%d cuts parse, more than there are events", good)
		}
	}
}

func TestBentLogsNeverPanic(t *testing.T) {
	for _, b := range ccelLogs(t) {
		end := len(bytes.TrimRight(b, "\xff"))
		for i := 0; i < end; i += 7 {
			bent := bytes.Clone(b)
			bent[i] ^= 0xff
			if l, err := ParseCC(bent); err == nil {
				for j := range l.Events {
					l.Events[j].Describe()
				}
			}
		}
	}
}

func TestReplaySkipsNoAction(t *testing.T) {
	d := func(x byte) []Digest { return []Digest{{SHA256, bytes.Repeat([]byte{x}, 32)}} }
	l := &Log{Algorithms: []Algorithm{SHA256}, Events: []Event{
		{Register: 4, Type: refvalue.NoAction, Digests: d(9)}, {Register: 4, Type: refvalue.Action, Digests: d(1)}, {Register: 5, Type: refvalue.Action, Digests: d(2)},
	}}
	got, err := l.Replay(SHA256, 4)
	if err != nil {
		t.Fatal(err)
	}
	if want := SHA256.Hash(append(make([]byte, 32), bytes.Repeat([]byte{1}, 32)...)); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestSM3(t *testing.T) {
	for in, want := range map[string]string{
		"abc":                      "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
		strings.Repeat("abcd", 16): "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
	} {
		if got := hex.EncodeToString(SM3.Hash([]byte(in))); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("not a log"), true)
	if os.Getenv("CI") == "true" || vectorsExist() {
		for _, b := range ccelLogs(f) {
			f.Add(bytes.TrimRight(b, "\xff"), false)
			f.Add(b[:min(len(b), 12<<10)], true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, cc bool) {
		l, end, err := parseTo(b, cc)
		if err != nil {
			return
		}
		var again []byte
		for i := range l.Events {
			again = l.Events[i].Append(again)
		}
		if !bytes.HasSuffix(b[:end], again) {
			t.Errorf("%x written again is %x", b[:end], again)
		}
		if cc {
			if trimmed, err := TrimCC(b); err != nil || len(trimmed) != end {
				t.Errorf("trimmed to %d bytes, entries end at %d: %v", len(trimmed), end, err)
			}
			for _, a := range l.Algorithms {
				_, _ = l.ReplayRTMRs(a)
			}
		}
		for i := range l.Events {
			l.Events[i].Describe()
			if s := l.Events[i].Text(); len(s) > 130 {
				t.Errorf("text of %d bytes", len(s))
			}
		}
		for _, a := range l.Algorithms {
			// A confidential computing log may lack digests of a bank.
			if _, err := l.Replay(a, 4); err != nil && !cc {
				t.Error(err)
			}
		}
	})
}

func vectorsExist() bool {
	_, err := os.Stat("../../../shared/vectors/eventlog")
	return err == nil
}
