package auditlog_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

func lines(n int) [][]byte {
	var out [][]byte
	prev := auditlog.Genesis
	for i := range n {
		l := fmt.Appendf(nil, `{"seq":%d,"prev":"%s","kind":"admin"}`, i+1, prev)
		s := sha256.Sum256(l)
		prev = hex.EncodeToString(s[:])
		out = append(out, l)
	}
	return out
}

func TestChain(t *testing.T) {
	good := lines(5)
	c := auditlog.NewChain()
	for _, l := range good {
		if err := c.Next(l); err != nil {
			t.Fatal(err)
		}
	}
	if c.Seq != 5 {
		t.Errorf("ends at %d", c.Seq)
	}
	for name, bad := range map[string][][]byte{
		"changed": {good[0], append([]byte(" "), good[1]...), good[2]}, "left out": {good[0], good[2]}, "twice": {good[0], good[0]},
		"begins late": {good[1]}, "no JSON": {good[0], []byte("x")}, "long": {make([]byte, auditlog.MaxLine)},
	} {
		c, err := auditlog.NewChain(), error(nil)
		for _, l := range bad {
			if err = c.Next(l); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if (name == "changed" || name == "left out") && !errors.Is(err, auditlog.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	in := auditlog.Checkpoint{Instance: "i", Seq: 3, Hash: auditlog.Genesis, Time: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)}
	raw, err := in.Sign(ed)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := auditlog.VerifyCheckpoint(raw, ed.Public()); err != nil || *out != in {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := auditlog.VerifyCheckpoint(raw, ec.Public()); err == nil {
		t.Error("another key's checkpoint is accepted")
	}
	in.Hash = "ABC"
	bad, err := in.Sign(ed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := auditlog.VerifyCheckpoint(bad, ed.Public()); err == nil {
		t.Error("a malformed hash is accepted")
	}
}

func FuzzAuditLog(f *testing.F) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	cp := auditlog.Checkpoint{Instance: "i", Seq: 1, Hash: auditlog.Genesis}
	raw, err := cp.Sign(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(string(lines(1)[0]))
	f.Add(fmt.Sprintf(`{"kind":"admin","action":"remove audit log","log":{"log":%[1]q,"seq":1,"hash":%[1]q,"sha256":%[1]q}}`, auditlog.Genesis))
	f.Fuzz(func(t *testing.T, in string) {
		c := auditlog.NewChain()
		if err := c.Next([]byte(in)); err == nil && c.Seq != 1 {
			t.Errorf("%q is taken as record %d", in, c.Seq)
		}
		if what, err := auditlog.RemovedBy([]byte(in)); what != nil && (err != nil || len(what.Log) != 64 || len(what.Hash) != 64 || len(what.SHA256) != 64) {
			t.Errorf("%q is taken for the record of a removal", in)
		}
		if _, err := auditlog.VerifyCheckpoint(in, pub); err == nil && in != raw {
			t.Errorf("a forged checkpoint verifies: %q", in)
		}
	})
}
