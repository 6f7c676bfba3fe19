package tenant

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

const ns = trusteeapi.DefaultNamespace

func newRegistry(t *testing.T) *Registry {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r, err := New(t.Context(), st, limits.Defaults(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func publicPEM(t *testing.T, key ed25519.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func bundleOf(value string) *refvalue.Bundle {
	return &refvalue.Bundle{
		Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}, Values: map[string]any{"major_version": value},
		Expires: time.Now().UTC().Add(time.Hour).Truncate(time.Second),
	}
}

// A key that comes back brings back what it signed, at the next attestation; where
// that contradicts what was registered meanwhile, the key is refused, because no
// attestation could be judged.
func TestOwnerComesBack(t *testing.T) {
	r := newRegistry(t)
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	owner, err := r.AddOwner(t.Context(), ns, "o", publicPEM(t, pub))
	if err != nil {
		t.Fatal(err)
	}
	s, err := refvalue.Sign(bundleOf("1"), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RegisterReferenceValues(t.Context(), ns, "signed", "a", []byte(s.Raw)); err != nil {
		t.Fatal(err)
	}
	withdraw := func() uint64 {
		t.Helper()
		if err := r.DeleteOwner(t.Context(), ns, owner.ID); err != nil {
			t.Fatal(err)
		}
		g, err := r.Generation(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	before := withdraw()
	if _, err := r.AddOwner(t.Context(), ns, "o", publicPEM(t, pub)); err != nil {
		t.Fatal(err)
	}
	if g, _ := r.Generation(t.Context(), ns); g == before {
		t.Error("the returned key's bundle is not taken up")
	}
	withdraw()
	doc, err := bundleOf("2").Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RegisterReferenceValues(t.Context(), ns, "other", "a", doc); err != nil {
		t.Fatal(err)
	}
	if _, err := r.AddOwner(t.Context(), ns, "o", publicPEM(t, pub)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key whose bundle contradicts another: %v", err)
	}
	if _, err := r.Trust(t.Context(), ns, time.Now()); err != nil {
		t.Errorf("nothing can be judged any more: %v", err)
	}
}

// `coffer run` registers its machine's root each time.
func TestRootAgainChangesNothing(t *testing.T) {
	r := newRegistry(t)
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, "maker").Root.Raw}))
	generation := func() uint64 {
		t.Helper()
		g, err := r.Generation(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	if _, err := r.AddRoot(t.Context(), ns, "", cert, false); err != nil {
		t.Fatal(err)
	}
	before := generation()
	if _, err := r.AddRoot(t.Context(), ns, "", cert, false); err != nil || generation() != before {
		t.Errorf("the same root again: %v, generation %d and %d", err, before, generation())
	}
	if _, err := r.AddRoot(t.Context(), ns, "tpm", cert, false); err != nil || generation() == before {
		t.Errorf("the root for another TEE: %v", err)
	}
}

// What anchors simulated hardware in one namespace anchors no production's in
// another, also not by way of a document.
func TestSimulatedRootIsNoAnchor(t *testing.T) {
	r := newRegistry(t)
	if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: "sim", Simulated: true}); err != nil {
		t.Fatal(err)
	}
	cert := func(name string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, name).Root.Raw}))
	}
	simulated, genuine := cert("machine"), cert("maker")
	if _, err := r.AddRoot(t.Context(), "sim", "", simulated, false); err != nil {
		t.Fatal(err)
	}
	set := func(doc string) error {
		_, err := r.SetAnchor(t.Context(), ns, "nvidiadpu", "roots", "a", []byte(doc))
		return err
	}
	if err := set(genuine + simulated); !errors.Is(err, ErrConflict) {
		t.Errorf("a simulated root as an anchor of production: %v", err)
	}
	if err := set(genuine); err != nil {
		t.Error(err)
	}
	if _, err := r.AddRoot(t.Context(), "sim", "", genuine, false); !errors.Is(err, ErrConflict) {
		t.Errorf("an anchor of production as a simulated root: %v", err)
	}
}

// One machine's root serves several TEEs, each registered by its own run.
func TestRootOfSeveralTEEs(t *testing.T) {
	r := newRegistry(t)
	if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: "sim", Simulated: true}); err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, "machine").Root.Raw}))
	for _, tee := range []string{"snp", "az-snp-vtpm"} {
		if _, err := r.AddRoot(t.Context(), "sim", tee, cert, false); err != nil {
			t.Fatal(err)
		}
	}
	roots := func(tee string) int {
		t.Helper()
		trust, err := r.Trust(t.Context(), "sim", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return len(trust.SimulatedRoots(tee))
	}
	if a, b, c := roots("snp"), roots("az-snp-vtpm"), roots("tdx"); a != 1 || b != 1 || c != 0 {
		t.Errorf("%d, %d, %d roots", a, b, c)
	}
	l, err := r.EKRoots(t.Context(), "sim")
	if err != nil || len(l) != 2 {
		t.Fatalf("%+v, %v", l, err)
	}
	if err := r.DeleteEKRoot(t.Context(), "sim", l[0].ID); err != nil || roots(l[0].TEE) != 0 || roots(l[1].TEE) != 1 {
		t.Errorf("after one is deleted: %v", err)
	}
	if _, err := r.AddRoot(t.Context(), ns, "", cert, false); !errors.Is(err, ErrConflict) {
		t.Errorf("in production: %v", err)
	}
}

// What a request is refused by, and what verifiers are prepared by, end with the
// namespace at once.
func TestExists(t *testing.T) {
	r := newRegistry(t)
	if err := r.Exists(t.Context(), ns); err != nil {
		t.Error(err)
	}
	const absent = "nobody-made-it"
	if err := r.Exists(t.Context(), absent); !errors.Is(err, ErrNotFound) {
		t.Errorf("Exists: %v", err)
	}
	if g, err := r.Generation(t.Context(), absent); !errors.Is(err, ErrNotFound) || g != 0 {
		t.Errorf("Generation: %d, %v", g, err)
	}
}
