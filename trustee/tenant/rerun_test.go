package tenant

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"github.com/cofferproject/coffer/trustee/store/storetest"
)

// TestWhoMadeItWhenItRunsAgain has another's policy and owner key vanish between two runs
// of who registers the same.
func TestWhoMadeItWhenItRunsAgain(t *testing.T) {
	r := newRegistry(t)
	again := &storetest.Between{Store: r.store}
	r.store = again
	const name, text = "strict_cpu", "package policy\n\nimport rego.v1\n\ndefault trust_claims := {}\n"
	if _, err := r.SetPolicy(t.Context(), ns, name, "alice", text); err != nil {
		t.Fatal(err)
	}
	again.Arm("", func() {
		if err := r.DeletePolicy(t.Context(), ns, name); err != nil {
			t.Error(err)
		}
	})
	if p, err := r.SetPolicy(t.Context(), ns, name, "bob", text); err != nil || p.Actor != "bob" {
		t.Errorf("policy: %+v, %v; want bob's", p, err)
	}

	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.AddOwner(t.Context(), ns, "alice", publicPEM(t, pub))
	if err != nil {
		t.Fatal(err)
	}
	again.Arm("", func() {
		if err := r.DeleteOwner(t.Context(), ns, first.ID); err != nil {
			t.Error(err)
		}
	})
	if k, err := r.AddOwner(t.Context(), ns, "bob", publicPEM(t, pub)); err != nil || k.Name != "bob" {
		t.Errorf("owner: %+v, %v; want bob's", k, err)
	}
}
