package kbs_test

import (
	"testing"

	"github.com/cofferproject/coffer/api/kbs"
)

func FuzzParseVersionQuery(f *testing.F) {
	for _, s := range []string{"", "version=3", "after=3&wait=30", "wait=1", "version=1&after=2", "x=y&version=18446744073709551616", "%zz", "after=1&after=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := kbs.ParseVersionQuery(raw)
		if err != nil {
			return
		}
		if v.Wait < 0 || v.Wait > kbs.MaxWait || v.Wait > 0 && v.After == 0 || v.Version != 0 && v.After != 0 {
			t.Fatalf("%q: %+v", raw, v)
		}
		if again, err := kbs.ParseVersionQuery(v.Encode()); err != nil || *again != *v {
			t.Fatalf("%q: %+v becomes %+v, %v", raw, v, again, err)
		}
	})
}
