package auditcheck_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/owner/auditcheck"
)

// world is a log on disk with the key that signs its checkpoints.
type world struct {
	t      *testing.T
	dir    string
	key    ed25519.PrivateKey
	public string
	chain  *auditlog.Chain
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, t.TempDir(), key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), auditlog.NewChain()}
}

func (w *world) append(name, text string) {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
}

// record appends records to a file of the log.
func (w *world) record(file, note string, n int) {
	w.t.Helper()
	for range n {
		l := fmt.Sprintf(`{"seq":%d,"prev":%q,"kind":%q}`, w.chain.Seq+1, w.chain.Hash, note)
		if err := w.chain.Next([]byte(l)); err != nil {
			w.t.Fatal(err)
		}
		w.append(file, l+"\n")
	}
}

func (w *world) sign() auditlog.Signed {
	w.t.Helper()
	raw, err := (&auditlog.Checkpoint{Instance: "i", Seq: w.chain.Seq, Hash: w.chain.Hash}).Sign(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	b, _ := json.Marshal(raw)
	w.append("checkpoints.jsonl", string(b)+"\n")
	return auditlog.Signed{Checkpoint: raw, PublicKey: w.public}
}

func (w *world) check(witness *auditlog.Signed, wrong string) *auditcheck.Report {
	w.t.Helper()
	r, err := auditcheck.Run(context.Background(), auditcheck.Folder(w.dir), auditcheck.Options{Witness: witness, Key: w.public})
	switch {
	case wrong == "" && err != nil:
		w.t.Errorf("a good log: %v", err)
	case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
		w.t.Errorf("got %v, want %q", err, wrong)
	}
	return r
}

const first, second = "audit-00000000000000000001.jsonl", "audit-00000000000000000006.jsonl"

func TestGoodLog(t *testing.T) {
	w := newWorld(t)
	w.record(first, "a", 3)
	witness := w.sign()
	w.record(first, "a", 2)
	w.record(second, "a", 4)
	w.sign()
	w.record(second, "a", 1)
	w.append(second, `{"seq":11,"unfinished`)
	if r := w.check(&witness, ""); r != nil && (r.Records != 10 || r.Since != 3 || r.Checkpoints != 2) {
		t.Errorf("%+v", r)
	}
	r := w.check(nil, "")
	name := filepath.Join(t.TempDir(), "witness")
	if err := auditcheck.WriteWitness(name, &r.Witness); err != nil {
		t.Fatal(err)
	}
	again, err := auditcheck.ReadWitness(name)
	if err != nil || *again != r.Witness {
		t.Errorf("%+v, %v", again, err)
	}
	if r := w.check(again, ""); r != nil && r.Since != 9 {
		t.Errorf("%+v", r)
	}
}

func TestBadLogs(t *testing.T) {
	fill := func(w *world) auditlog.Signed {
		w.record(first, "a", 5)
		s := w.sign()
		w.record(second, "a", 3)
		w.sign()
		return s
	}
	edit := func(w *world, file string, change func(string) string) {
		w.t.Helper()
		p := filepath.Join(w.dir, file)
		b, err := os.ReadFile(p)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(change(string(b))), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		change func(w *world)
		wrong  string
	}{
		"changed":     {func(w *world) { edit(w, first, func(s string) string { return strings.Replace(s, `"a"`, `"b"`, 1) }) }, "chain is broken"},
		"a file gone": {func(w *world) { os.Remove(filepath.Join(w.dir, first)) }, "chain is broken"},
		"cut off": {func(w *world) {
			edit(w, second, func(s string) string { return s[:strings.LastIndex(s[:len(s)-1], "\n")+1] })
		}, "cut off"},
		"cut off in the middle": {func(w *world) { edit(w, first, func(s string) string { return s[:len(s)-1] }) }, "unfinished"},
		"written anew": {func(w *world) {
			os.Remove(filepath.Join(w.dir, first))
			os.Remove(filepath.Join(w.dir, second))
			w.chain = auditlog.NewChain()
			w.record(first, "b", 5)
			w.record(second, "b", 5)
		}, "written anew"},
		"no checkpoint": {func(w *world) { os.Remove(filepath.Join(w.dir, "checkpoints.jsonl")) }, "no signed checkpoint"},
		"another's checkpoint": {func(w *world) {
			_, w.key, _ = ed25519.GenerateKey(rand.Reader)
			w.sign()
		}, "does not verify"},
		"checkpoint no JWS": {func(w *world) { w.append("checkpoints.jsonl", "\"x\"\n") }, "checkpoint"},
		"nothing": {func(w *world) {
			os.Remove(filepath.Join(w.dir, first))
			os.Remove(filepath.Join(w.dir, second))
		}, "no audit-"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fill(w)
			tc.change(w)
			w.check(nil, tc.wrong)
		})
	}
	t.Run("all anew, checkpoints too: only a witness tells", func(t *testing.T) {
		w := newWorld(t)
		witness := fill(w)
		for _, f := range []string{first, second, "checkpoints.jsonl"} {
			os.Remove(filepath.Join(w.dir, f))
		}
		w.chain = auditlog.NewChain()
		w.record(first, "b", 9)
		w.sign()
		w.check(nil, "")
		w.check(&witness, "written anew")
	})
	t.Run("cut off with its checkpoints", func(t *testing.T) {
		w := newWorld(t)
		witness := fill(w)
		for _, f := range []string{first, second, "checkpoints.jsonl"} {
			os.Remove(filepath.Join(w.dir, f))
		}
		w.chain = auditlog.NewChain()
		w.record(first, "a", 2)
		w.sign()
		w.check(&witness, "cut off")
	})
}

func FuzzWitness(f *testing.F) {
	f.Add([]byte(`{"checkpoint":"a.b.c","public_key":"-----BEGIN PUBLIC KEY-----"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := filepath.Join(t.TempDir(), "w")
		if err := os.WriteFile(p, in, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := auditcheck.ReadWitness(p)
		if err != nil || w == nil {
			return
		}
		if _, err := w.Verify(); err == nil && !strings.Contains(w.Checkpoint, ".") {
			t.Errorf("%q verifies", in)
		}
	})
}
