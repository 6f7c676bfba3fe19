package verify

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
)

func measured(t *testing.T, note string) (plain, register []byte) {
	t.Helper()
	plain, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{"note": note}})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(plain)
	return plain, sum[:]
}

func checked(plain, register []byte) (*Result, error) {
	r := &Result{Claims: map[string]any{}}
	return r, CheckInitdata("test", "snp", "HOST_DATA", register, &Input{Initdata: plain}, r)
}

// What is kept is the document of exactly the bytes that were measured: another one
// under the same register, and one that does not parse, are denied each time.
func TestInitdataIsThatOfItsBytes(t *testing.T) {
	one, reg1 := measured(t, "one")
	two, reg2 := measured(t, "two")
	long, reg3 := measured(t, strings.Repeat("x", maxDocument))
	bad := []byte("version = ")
	badReg := sha256.Sum256(bad)
	for range 3 {
		for i, d := range [][2][]byte{{one, reg1}, {two, reg2}, {long, reg3}} {
			want, err := initdata.Parse(d[0])
			if err != nil {
				t.Fatal(err)
			}
			r, err := checked(d[0], d[1])
			if err != nil || !maps.Equal(r.InitdataDoc.Data, want.Data) {
				t.Fatalf("%d: %v, %v", i, r.InitdataDoc, err)
			}
		}
		if _, err := checked(two, reg1); !denied(err, ReasonInitdataMismatch) {
			t.Errorf("another document: %v", err)
		}
		if _, err := checked(bytes.ToUpper(one), reg1); !denied(err, ReasonInitdataMismatch) {
			t.Errorf("other bytes: %v", err)
		}
		if _, err := checked(bad, badReg[:]); !denied(err, ReasonInitdataMalformed) {
			t.Errorf("no document: %v", err)
		}
		// The algorithm is the TEE's: what is kept for one is not taken for another.
		r := &Result{}
		sum, err := initdata.Digest(initdata.SHA384, one)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckInitdata("test", "tdx", "MRCONFIGID", sum, &Input{Initdata: one}, r); !denied(err, ReasonInitdataMalformed) || r.InitdataDoc != nil {
			t.Errorf("a document for another TEE: %v", err)
		}
	}
	if _, ok := documents.Get("sha256:" + string(reg3)); ok {
		t.Error("a long document is kept")
	}
	if _, ok := documents.Get("sha256:" + string(reg1)); !ok {
		t.Error("a document is not kept")
	}
	for i := range maxDocuments {
		if _, err := checked(measured(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := documents.Get("sha256:" + string(reg1)); ok {
		t.Error("more documents than the limit are kept")
	}
}

func denied(err error, reason denial.Reason) bool {
	d, ok := denial.As(err)
	return ok && d.Reason == reason
}
