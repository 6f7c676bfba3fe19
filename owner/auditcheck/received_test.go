package auditcheck_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/owner/auditcheck"
)

// told signs the log's end as a trustee tells its witness, and keeps it from the folder.
func (w *world) told() string {
	w.t.Helper()
	raw, err := (&auditlog.Checkpoint{Instance: "i", Log: w.chain.First, Seq: w.chain.Seq, Hash: w.chain.Hash}).Sign(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := json.Marshal(auditlog.Signed{Checkpoint: raw, PublicKey: w.public})
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// start forgets the log and begins another one.
func (w *world) start() {
	w.t.Helper()
	for _, f := range []string{first, second, "checkpoints.jsonl"} {
		if err := os.Remove(filepath.Join(w.dir, f)); err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
	}
	w.chain = auditlog.NewChain()
}

func received(t *testing.T, lines ...string) []auditlog.Signed {
	t.Helper()
	p := filepath.Join(t.TempDir(), "received.log")
	if err := os.WriteFile(p, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := auditcheck.IsReceived(p); err != nil || !ok {
		t.Fatalf("not known as what a witness received: %v", err)
	}
	all, err := auditcheck.ReadReceived(p)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func syslogLine(json string) string {
	return "Nov 26 12:00:00 trustee-0 coffer-trustee[17]: " + json
}

// What a witness received is held against the log, in whatever order and form it came.
func TestWhatAWitnessReceived(t *testing.T) {
	for name, tc := range map[string]struct {
		then     func(w *world) []string // what happens after three checkpoints; more that the witness gets
		replicas bool
		wrong    string
	}{
		"whole":          {func(*world) []string { return nil }, false, ""},
		"grown":          {func(w *world) []string { w.record(second, "a", 4); return nil }, false, ""},
		"other lines":    {func(*world) []string { return []string{"Nov 26 12:00:00 h cron[1]: {}"} }, false, ""},
		"cut off":        {func(w *world) []string { w.start(); w.record(first, "a", 3); return nil }, false, "cut off"},
		"written anew":   {func(w *world) []string { w.start(); w.record(first, "b", 9); return nil }, false, "no checkpoint of this log"},
		"anew, and told": {func(w *world) []string { w.start(); w.record(first, "b", 9); return []string{w.told()} }, false, "also knows a log"},
		"another end": {func(w *world) []string {
			w.start()
			w.record(first, "a", 3)
			w.record(first, "b", 6)
			return nil
		}, false, "written anew"},
		"forked": {func(w *world) []string {
			// The same log to record 6, with another record 6 told to the witness.
			was := *w.chain
			w.chain.Hash = strings.Repeat("0", 64)
			line := w.told()
			*w.chain = was
			return []string{line}
		}, false, "two contents"},
		"replica": {func(w *world) []string {
			was, files := *w.chain, w.dir
			w.dir = w.t.TempDir()
			w.chain = auditlog.NewChain()
			w.record(first, "replica", 2)
			line := w.told()
			w.dir, *w.chain = files, was
			return []string{line}
		}, true, ""},
		"another key": {func(w *world) []string {
			x := newWorld(w.t)
			x.record(first, "a", 1)
			return []string{x.told()}
		}, true, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var lines []string
			for range 3 {
				w.record(first, "a", 2)
				lines = append(lines, syslogLine(w.told()), w.told())
			}
			lines = append(lines, tc.then(w)...)
			slices.Reverse(lines)
			w.sign()
			r, err := auditcheck.Run(t.Context(), auditcheck.Folder(w.dir), auditcheck.Options{Received: received(t, lines...), Replicas: tc.replicas, Key: w.public})
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("%v, want %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Witnessed != 3 || (len(r.OtherLogs) == 1) != tc.replicas {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestReceivedIsReadStrictly(t *testing.T) {
	for in, wrong := range map[string]string{
		"":                 "EOF",
		"nothing at all\n": "no checkpoint",
		`{"checkpoint":"a","public_key":"b","more":1}` + "\n": "unknown field",
		`{"checkpoint":"a","public_key":"b"} x` + "\n":        "follows",
		`{"checkpoint":"a",` + "\n":                           "line 1",
		`{"checkpoint":"a",`:                                  "no checkpoint",
		strings.Repeat("x", 70<<10) + "\n":                    "buffer full",
	} {
		p := filepath.Join(t.TempDir(), "r")
		if err := os.WriteFile(p, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := auditcheck.IsReceived(p)
		if err == nil {
			_, err = auditcheck.ReadReceived(p)
		}
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%.40q: %v, want %q", in, err, wrong)
		}
	}
}

// An outcome belongs to a release before it; one of nothing says that something left
// which the log does not know.
func TestOutcomes(t *testing.T) {
	for name, tc := range map[string]struct {
		kinds string // r, d, u and a number each
		want  auditcheck.Releases
		wrong string
	}{
		"old log":       {"r1 r2", auditcheck.Releases{Authorised: 2, Unknown: 2}, ""},
		"all outcomes":  {"r1 r2 d2 u1 r3", auditcheck.Releases{Authorised: 3, Delivered: 1, Undelivered: 1, Unknown: 1}, ""},
		"of nothing":    {"r1 d2", auditcheck.Releases{}, "not authorised"},
		"before":        {"d1 r1", auditcheck.Releases{}, "not authorised"},
		"twice":         {"r1 d1 d1", auditcheck.Releases{}, "not authorised"},
		"two different": {"r1 d1 u1", auditcheck.Releases{}, "not authorised"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			kinds := map[byte]string{'r': auditlog.KindRelease, 'd': auditlog.KindDelivered, 'u': auditlog.KindUndelivered}
			for k := range strings.FieldsSeq(tc.kinds) {
				line := fmt.Sprintf(`{"seq":%d,"prev":%q,"kind":%q,"record":%q}`, w.chain.Seq+1, w.chain.Hash, kinds[k[0]], k[1:])
				if err := w.chain.Next([]byte(line)); err != nil {
					t.Fatal(err)
				}
				w.append(first, line+"\n")
			}
			w.sign()
			r := w.check(nil, tc.wrong)
			if tc.wrong == "" && r != nil && r.Releases != tc.want {
				t.Errorf("%+v", r.Releases)
			}
		})
	}
}

func FuzzReceived(f *testing.F) {
	f.Add([]byte("<109>1 2026-11-26T12:00:00Z h coffer-trustee 1 checkpoint - {\"checkpoint\":\"a.b.c\",\"public_key\":\"x\"}\n"))
	f.Add([]byte("{\"checkpoint\":\"a\",\"public_key\":\"b\"}\n{\"checkpoint\":\"a\""))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := filepath.Join(t.TempDir(), "r")
		if err := os.WriteFile(p, in, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := auditcheck.ReadReceived(p)
		if (err == nil) != (len(all) > 0) {
			t.Errorf("%d checkpoints, %v", len(all), err)
		}
		if len(all) > strings.Count(string(in), `{"checkpoint":`) {
			t.Errorf("%d checkpoints of %q", len(all), in)
		}
	})
}
