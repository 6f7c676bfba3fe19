package respolicy

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	allowing = "package policy\nimport rego.v1\nallow if true\n"
	refusing = "package policy\nimport rego.v1\ndefault allow := false\n"
)

type fixture struct {
	t *testing.T
	s store.Store
	p *Policies
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r, err := tenant.New(t.Context(), s, limits.Defaults(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: "ns"}); err != nil {
		t.Fatal(err)
	}
	return &fixture{t, s, New(s, time.Now)}
}

func (f *fixture) put(name, text string) {
	f.t.Helper()
	if _, err := f.p.Put(f.t.Context(), "ns", trusteeapi.ResourcePolicy{
		Name: name, Resources: "*", Methods: []string{trusteeapi.MethodGet}, Text: text,
	}, "actor"); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) inForce() *InForce {
	f.t.Helper()
	var out *InForce
	if err := f.s.View(f.t.Context(), func(tx store.Tx) (err error) {
		out, err = f.p.In(tx, "ns")
		return err
	}); err != nil {
		f.t.Fatal(err)
	}
	return out
}

func set(t *testing.T, f *InForce) *Set {
	t.Helper()
	s, err := f.Set()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func allows(t *testing.T, s *Set) bool {
	t.Helper()
	_, err := s.Decide(context.Background(), "a/b/c", trusteeapi.MethodGet, &policy.ResourceInput{Method: trusteeapi.MethodGet, Now: time.Now()})
	if d, ok := denial.As(err); err != nil && (!ok || d.Reason != ReasonDenied) {
		t.Fatal(err)
	}
	return err == nil
}

func (s *Set) named(name string) *policy.Resource {
	for _, r := range s.rules {
		if r.policy.ID() == name {
			return r.policy
		}
	}
	return nil
}

// A version is compiled once, outside of the transaction, and a changed one is never
// answered from what was compiled before.
func TestSetCompilesEachVersionOnce(t *testing.T) {
	f := newFixture(t)
	if s := set(t, f.inForce()); s.Asks("a/b/c", trusteeapi.MethodGet) {
		t.Error("a policy where there is none")
	}
	f.put("one", allowing)
	f.put("two", allowing)
	read := f.inForce()
	if read.set != nil || f.p.prepared("ns").get() != nil {
		t.Error("compiled inside of the transaction")
	}
	first := set(t, read)
	if !allows(t, first) {
		t.Error("two policies that allow refuse")
	}
	if again := set(t, f.inForce()); again != first {
		t.Error("compiled again without a change")
	}
	f.put("two", refusing)
	second := set(t, f.inForce())
	if allows(t, second) {
		t.Error("a policy that refuses now is answered with what it was")
	}
	if second.named("one") != first.named("one") {
		t.Error("a policy that did not change was compiled again")
	}
	if second.named("two") == first.named("two") {
		t.Error("a policy that changed was not compiled")
	}
	f.put("two", allowing)
	if !allows(t, set(t, f.inForce())) {
		t.Error("a policy that allows again refuses")
	}
}

// Who has read before a change and compiles after it decides by what it read, and
// leaves what is newer in its place.
func TestLateSetUndoesNothing(t *testing.T) {
	f := newFixture(t)
	f.put("one", allowing)
	late := f.inForce()
	f.put("one", refusing)
	newest := set(t, f.inForce())
	if allows(t, newest) {
		t.Fatal("the new version allows")
	}
	if !allows(t, set(t, late)) {
		t.Error("the version of that transaction refuses")
	}
	if f.p.prepared("ns").get() != newest {
		t.Error("an older set took the place of a newer one")
	}
	if allows(t, set(t, f.inForce())) {
		t.Error("the older version is in force again")
	}
}
