package auditcheck_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/owner/auditcheck"
)

// signed gives told as it is kept beside a log.
func (w *world) signed() auditlog.Signed {
	w.t.Helper()
	var s auditlog.Signed
	if err := json.Unmarshal([]byte(w.told()), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// removal puts the record of a removal into the log.
func (w *world) removal(what auditlog.Removed) {
	w.t.Helper()
	b, err := json.Marshal(map[string]any{"seq": w.chain.Seq + 1, "prev": w.chain.Hash, "kind": "admin", "action": auditlog.ActionRemoved, "log": what})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.chain.Next(b); err != nil {
		w.t.Fatal(err)
	}
	w.append(first, string(b)+"\n")
}

// What is left of a log that was removed: its end, what the witness knows of it, and the
// record in the log that goes on.
func TestRemoved(t *testing.T) {
	sum := strings.Repeat("5", 64)
	for name, tc := range map[string]struct {
		change func(old, own *world, x *auditcheck.Tombstone, told *[]string)
		wrong  string
	}{
		"good":         {func(_, _ *world, _ *auditcheck.Tombstone, _ *[]string) {}, ""},
		"no signature": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) { x.Signed = nil }, "nothing vouches"},
		"another end":  {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) { x.Records-- }, "what is signed"},
		"another log": {func(_, own *world, x *auditcheck.Tombstone, _ *[]string) {
			x.Log = own.chain.First
		}, "what is signed"},
		"another key": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) {
			w := newWorld(t)
			w.record(first, "a", 4)
			s := w.signed()
			x.Signed = &s
		}, "another key"},
		"the witness knows more": {func(old, _ *world, _ *auditcheck.Tombstone, told *[]string) {
			old.record(first, "a", 1)
			*told = append(*told, old.told())
		}, "cut off before"},
		"the witness knows another end": {func(old, _ *world, _ *auditcheck.Tombstone, told *[]string) {
			old.chain.Hash = strings.Repeat("0", 64)
			*told = append(*told, old.told())
		}, "two contents"},
		"not on record": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) { x.Removal.Record = 1 }, "does not say so"},
		"another digest": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) {
			x.Removal.SHA256 = strings.Repeat("6", 64)
		}, "of another removal"},
		"on record nowhere": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) {
			x.Removal.Log = strings.Repeat("0", 64)
		}, "is not here"},
		"by its own word": {func(_, _ *world, x *auditcheck.Tombstone, _ *[]string) { x.Removal.Log = x.Log }, "is not here"},
	} {
		t.Run(name, func(t *testing.T) {
			own := newWorld(t)
			old := &world{own.t, t.TempDir(), own.key, own.public, auditlog.NewChain()}
			old.record(first, "a", 2)
			told := []string{old.told()}
			old.record(first, "a", 2)
			s := old.signed()
			own.record(first, "b", 2)
			own.removal(auditlog.Removed{Log: old.chain.First, Seq: 4, Hash: old.chain.Hash, SHA256: sum})
			x := &auditcheck.Tombstone{Log: old.chain.First, Records: 4, Signed: &s, Removal: auditlog.Removal{SHA256: sum, Log: own.chain.First, Record: 3}}
			tc.change(old, own, x, &told)
			own.sign()
			o := auditcheck.Options{Key: own.public, Received: received(t, told...), Replicas: true, Unwitnessed: true}
			removals := auditcheck.NewRemovals()
			if _, err := auditcheck.Run(t.Context(), removals.Watch(auditcheck.Folder(own.dir), own.chain.First), o); err != nil {
				t.Fatal(err)
			}
			r, err := auditcheck.Buried(x, o)
			proven := false
			if err == nil {
				proven, err = removals.Check(x, r, func(id string) bool { return id == x.Log })
			}
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("%v, not %q", err, tc.wrong)
				}
				return
			}
			if err != nil || !proven || r.Records != 4 || r.Witnessed != 1 {
				t.Errorf("%+v, proven %t, %v", r, proven, err)
			}
			// Where the log with the record was removed as well, only its export can tell.
			x.Removal.Log = strings.Repeat("7", 64)
			if proven, err := removals.Check(x, r, func(id string) bool { return id == x.Removal.Log }); proven || err != nil {
				t.Errorf("proven %t, %v", proven, err)
			}
		})
	}
}

// remote is a folder as the trustee gives it.
func (w *world) remote(s auditlog.Signed) *auditcheck.Remote {
	return &auditcheck.Remote{
		Page: func(ctx context.Context, after uint64, limit int) (out []string, err error) {
			n := uint64(0)
			err = auditcheck.Folder(w.dir).Lines(ctx, func(l []byte) error {
				if n++; n > after && len(out) < limit {
					out = append(out, string(l))
				}
				return nil
			})
			return out, err
		},
		Checkpoint: func(context.Context) (*auditlog.Signed, error) { return &s, nil },
	}
}

func TestExport(t *testing.T) {
	w := newWorld(t)
	w.record(first, "a", 1200)
	o := auditcheck.Options{Key: w.public}
	dir := filepath.Join(t.TempDir(), "copy")
	x, err := auditcheck.Export(t.Context(), w.remote(w.signed()), o, dir)
	if err != nil || !x.End || x.Records != 1200 || x.Log != w.chain.First {
		t.Fatalf("%+v, %v", x, err)
	}
	witness, err := auditcheck.ReadWitness(filepath.Join(dir, auditcheck.WitnessFile))
	if err != nil || witness == nil {
		t.Fatal(witness, err)
	}
	if r, err := auditcheck.Run(t.Context(), auditcheck.Folder(dir), auditcheck.Options{Witness: witness}); err != nil || r.Records != 1200 || r.Since != 1200 {
		t.Errorf("the copy: %+v, %v", r, err)
	}
	if id, sum, err := auditcheck.Identify(t.Context(), auditcheck.Folder(dir), o); err != nil || id != x.Log || sum != x.SHA256 {
		t.Errorf("%s %s %v", id, sum, err)
	}
	if _, err := auditcheck.Export(t.Context(), w.remote(w.signed()), o, dir); err == nil {
		t.Error("an export replaces another one")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the export that was there: %v", err)
	}
	end := w.signed()
	w.record(first, "a", 1)
	later := filepath.Join(t.TempDir(), "later")
	if x, err := auditcheck.Export(t.Context(), w.remote(end), o, later); err != nil || x.End || x.Records != 1201 {
		t.Errorf("an end that is not signed: %+v, %v", x, err)
	}
	w.append(first, `{"seq":1202,"prev":"x"}`+"\n")
	broken := filepath.Join(t.TempDir(), "broken")
	if _, err := auditcheck.Export(t.Context(), w.remote(end), o, broken); err == nil {
		t.Error("a broken log is exported")
	}
	if _, err := os.Stat(broken); !os.IsNotExist(err) {
		t.Errorf("it left something: %v", err)
	}
}
