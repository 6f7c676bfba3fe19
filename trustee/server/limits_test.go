package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/limits"
)

// addition adds the n-th entry of a kind, the same one when it is called twice.
type addition struct {
	limit  limits.Name
	most   int
	before int // entries that are there from the start
	add    func(n int) (int, []byte)
	again  bool // whether the same entry may be put once more at the limit
	remove func(n int) string
}

// Each kind takes as many entries as its limit says; one more is refused with the
// limit's name, an entry that is there may be replaced, and one that is removed
// makes room.
func TestLimits(t *testing.T) {
	const most = 2
	w := newWorld(t, func(c *Config) {
		c.Limits = limits.Defaults()
		for n := range c.Limits {
			c.Limits[n] = most
		}
		c.Limits[limits.SecretBytes] = 1 << 20
		c.Limits[limits.AdminTokens] = 10_000  // each request here takes one
		c.Limits[limits.Namespaces] = most + 2 // default and sim are there
		c.Limits[limits.Policies] = most + 1   // and default_cpu
		c.Limits[limits.Anchors] = 1           // there are no more kinds for one TEE
		c.Limits[limits.RootKeys] = 100
		c.Limits[limits.CollateralBytes] = 1 << 20
	})
	w.admin.addOwner("default", w.owner.Public())
	for _, k := range w.additions() {
		t.Run(string(k.limit), func(t *testing.T) {
			for n := range k.most - k.before {
				if status, b := k.add(n); status != 200 {
					t.Fatalf("entry %d of %d: %d %s", n+1, k.most, status, b)
				}
			}
			status, b := k.add(k.most)
			var e kbs.ErrorInfo
			if err := json.Unmarshal(b, &e); err != nil || status != 409 || e.Reason != string(limits.Reason) || e.Claim != string(k.limit) {
				t.Fatalf("one too many: %d %s", status, b)
			}
			if want := fmt.Sprintf("at most %d %s", k.most, k.limit); !strings.Contains(e.Detail, want) {
				t.Errorf("%q does not say %q", e.Detail, want)
			}
			if k.again {
				if status, b := k.add(0); status != 200 {
					t.Errorf("replacing one at the limit: %d %s", status, b)
				}
			}
			if k.remove == nil {
				return
			}
			if status, b := w.admin.do("DELETE", k.remove(0), nil); status != 204 {
				t.Fatalf("removing: %d %s", status, b)
			}
			if status, b := k.add(k.most); status != 200 {
				t.Errorf("where one was removed: %d %s", status, b)
			}
		})
	}
}

// trustAnchors gives the document of one CCA platform.
func trustAnchors(t testing.TB) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Appendf(nil, `[{"pkey":{"kty":"EC","crv":"P-384","x":%q,"y":%q},"implementation-id":%q,"instance-id":%q}]`,
		b64(point[1:49]), b64(point[49:]), strings.Repeat("7f", 32), "01"+strings.Repeat("07", 32))
}

func (w *world) additions() []addition {
	t := w.t
	const ns = "/namespaces/default"
	post := func(path string, v any) (int, []byte) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return w.admin.do("POST", path, b)
	}
	// What is added is made once, so that the same number is the same entry.
	var owners []ed25519.PublicKey
	var docs [][]byte
	var makers []string
	var ids, sealIDs, keyIDs []string
	for n := range 4 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		owners = append(owners, pub)
		docs = append(docs, document(t, fmt.Sprint("pod ", n)))
		ca := tpmtest.NewCA(t, fmt.Sprint("maker ", n))
		makers = append(makers, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw})))
	}
	id := func(b []byte, list *[]string) {
		var v struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(b, &v) == nil && v.ID != "" {
			*list = append(*list, v.ID)
		}
	}
	collateral := func(n, size int) (int, []byte) {
		return w.admin.do("POST", "/collateral", fmt.Appendf(nil, `{"version":1,"items":[{"origin":"https://vendor.example/%d","body":%q,"fetched":"2026-01-01T00:00:00Z"}]}`,
			n, base64.StdEncoding.EncodeToString(make([]byte, size))))
	}
	return []addition{
		{limit: limits.Namespaces, most: 4, before: 2, add: func(n int) (int, []byte) {
			return post("/namespaces", trusteeapi.Namespace{Name: fmt.Sprint("more", n)})
		}, again: true},
		{limit: limits.Owners, most: 2, before: 1, add: func(n int) (int, []byte) {
			status, b := post(ns+"/owners", trusteeapi.OwnerKey{Name: "o", PublicKey: publicPEM(t, owners[n])})
			id(b, &keyIDs)
			return status, b
		}, again: true, remove: func(n int) string { return ns + "/owners/" + keyIDs[n] }},
		{limit: limits.Seals, most: 2, add: func(n int) (int, []byte) {
			status, b := post(ns+"/seals", trusteeapi.SealInfo{JWS: w.seal(docs[n], w.owner).Raw})
			id(b, &sealIDs)
			return status, b
		}, remove: func(n int) string { return ns + "/seals/" + sealIDs[n] }},
		{limit: limits.Secrets, most: 2, add: func(n int) (int, []byte) {
			return w.admin.do("PUT", fmt.Sprintf("%s/resources/a/b/c%d", ns, n), []byte("x"))
		}, again: true, remove: func(n int) string { return fmt.Sprintf("%s/resources/a/b/c%d", ns, n) }},
		{limit: limits.Bindings, most: 2, add: func(n int) (int, []byte) {
			return post(fmt.Sprintf("%s/bindings/a/b/c%d", ns, n), trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(docs[0])}})
		}, again: true, remove: func(n int) string { return fmt.Sprintf("%s/bindings/a/b/c%d", ns, n) }},
		// The binding of c1 is there, with one digest.
		{limit: limits.BindingEntries, most: 2, before: 1, add: func(n int) (int, []byte) {
			return post(ns+"/bindings/a/b/c1", trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(docs[n+1])}})
		}, again: true},
		{limit: limits.ReferenceValues, most: 2, add: func(n int) (int, []byte) {
			b := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
			b.AddValues(fmt.Sprint("value", n), "x")
			doc, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			return w.admin.do("PUT", fmt.Sprintf("%s/reference-values/v%d", ns, n), doc)
		}, again: true, remove: func(n int) string { return fmt.Sprintf("%s/reference-values/v%d", ns, n) }},
		{limit: limits.Roots, most: 2, add: func(n int) (int, []byte) {
			status, b := post(ns+"/roots", trusteeapi.EKRoot{Certificate: makers[n]})
			id(b, &ids)
			return status, b
		}, again: true, remove: func(n int) string { return ns + "/roots/" + ids[n] }},
		{limit: limits.EnrolledAKs, most: 2, add: func(n int) (int, []byte) {
			return post(ns+"/enrolled-aks", trusteeapi.EnrolledAK{Name: fmt.Sprintf("000b%064x", n)})
		}, again: true, remove: func(n int) string { return fmt.Sprintf("%s/enrolled-aks/000b%064x", ns, n) }},
		{limit: limits.Policies, most: 3, before: 1, add: func(n int) (int, []byte) {
			return w.admin.do("PUT", fmt.Sprintf("%s/policies/p%d_gpu", ns, n), []byte(yes))
		}, again: true, remove: func(n int) string { return fmt.Sprintf("%s/policies/p%d_gpu", ns, n) }},
		{limit: limits.Anchors, most: 1, add: func(n int) (int, []byte) {
			if n == 0 {
				return w.admin.do("PUT", ns+"/anchors/nvidiadpu/roots", []byte(makers[0]))
			}
			return w.admin.do("PUT", ns+"/anchors/cca/trust-anchors", trustAnchors(t))
		}, again: true, remove: func(int) string { return ns + "/anchors/nvidiadpu/roots" }},
		{limit: limits.Identities, most: 2, add: func(n int) (int, []byte) {
			if n == 0 {
				w.admin.must("PUT", ns+"/trust-domain", trusteeapi.TrustDomain{TrustDomain: "prod.example.org"})
			}
			name := fmt.Sprint("i", n)
			b, err := json.Marshal(trusteeapi.Identity{Name: name, Path: "/web"})
			if err != nil {
				t.Fatal(err)
			}
			return w.admin.do("PUT", ns+"/identities/"+name, b)
		}, remove: func(n int) string { return fmt.Sprint(ns, "/identities/i", n) }, again: true},
		{limit: limits.CollateralItems, most: 2, add: func(n int) (int, []byte) { return collateral(n, 1) }, again: true,
			remove: func(n int) string { return fmt.Sprintf("/collateral?origin=https://vendor.example/%d", n) }},
	}
}

// A bundle that is too large is taken not even in part, and memory has what the
// store has.
func TestCollateralBytes(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Limits = limits.Defaults()
		c.Limits[limits.CollateralBytes] = 3000
	})
	bundle := func(sizes ...int) []byte {
		var items []string
		for n, size := range sizes {
			items = append(items, fmt.Sprintf(`{"origin":"https://vendor.example/%d","body":%q,"fetched":"2026-01-01T00:00:00Z"}`,
				n, base64.StdEncoding.EncodeToString(make([]byte, size))))
		}
		return fmt.Appendf(nil, `{"version":1,"items":[%s]}`, strings.Join(items, ","))
	}
	if status, b := w.admin.do("POST", "/collateral", bundle(1500)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	status, b := w.admin.do("POST", "/collateral", bundle(1, 3000))
	if status != 409 || !strings.Contains(string(b), string(limits.CollateralBytes)) {
		t.Errorf("too much: %d %s", status, b)
	}
	var l []trusteeapi.Collateral
	_, b = w.admin.do("GET", "/collateral", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 1 || l[0].Size != 1500 {
		t.Errorf("a part of the refused bundle was taken: %s %v", b, err)
	}
	// What replaces something larger makes room.
	if status, b := w.admin.do("POST", "/collateral", bundle(1, 1500)); status != 200 {
		t.Errorf("%d %s", status, b)
	}
	// A bound below what is there keeps no newer item of that size out.
	w.stop()
	w.cfg.Limits[limits.CollateralBytes], w.cfg.Limits[limits.CollateralItems] = 1, 1
	w.start()
	if status, b := w.admin.do("POST", "/collateral", bundle(1, 1500)); status != 200 {
		t.Errorf("the same amount again: %d %s", status, b)
	}
	if status, b := w.admin.do("POST", "/collateral", bundle(100, 1500)); status != 409 {
		t.Errorf("more of it: %d %s", status, b)
	}
}

// Keys that were ever registered are remembered for good, so that too is bounded.
func TestRootKeysAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Limits = limits.Defaults()
		c.Limits[limits.RootKeys] = 1
	})
	for n, want := range []int{200, 409} {
		ca := tpmtest.NewCA(t, fmt.Sprint("maker ", n))
		doc, err := json.Marshal(trusteeapi.EKRoot{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw}))})
		if err != nil {
			t.Fatal(err)
		}
		status, b := w.admin.do("POST", "/namespaces/default/roots", doc)
		if status != want {
			t.Fatalf("root %d: %d %s", n, status, b)
		}
		if want != 200 {
			continue
		}
		var root trusteeapi.EKRoot
		if err := json.Unmarshal(b, &root); err != nil {
			t.Fatal(err)
		}
		if status, b := w.admin.do("DELETE", "/namespaces/default/roots/"+root.ID, nil); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
}
