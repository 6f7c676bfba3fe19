package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/store"
)

// change is one administrator's request, relative to the API's prefix.
type change struct {
	method, path string
	body         []byte
}

// registered is one kind of what evidence is judged by. Its n-th change (from 1)
// leaves a state from which stored can tell n.
type registered struct {
	name   string
	change func(n int) change
	stored func(a *adminClient) int
}

// read decodes an answer of the API.
func read[T any](a *adminClient, path string) (v T) {
	a.t.Helper()
	status, b := a.do("GET", path, nil)
	if err := json.Unmarshal(b, &v); status != 200 || err != nil {
		a.t.Fatalf("GET %s: %d %s", path, status, b)
	}
	return v
}

func post(path string, v any) change {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a struct of strings
	}
	return change{"POST", path, b}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// allRegistered gives every kind. What a change says is made once, so that its
// digest is known.
func allRegistered(t testing.TB, w *world) []registered {
	const ns = "/namespaces/default"
	docs := map[string]map[string]int{}
	remember := func(kind string, n int, doc []byte) []byte {
		if docs[kind] == nil {
			docs[kind] = map[string]int{}
		}
		docs[kind][sum(doc)] = n
		return doc
	}
	var mu sync.Mutex
	made := map[string][]byte{}
	once := func(kind string, n int, newDoc func() []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		key := fmt.Sprint(kind, n)
		if made[key] == nil {
			made[key] = remember(kind, n, newDoc())
		}
		return made[key]
	}
	// which gives the number of the document with a digest; 0: nobody's.
	which := func(kind, digest string) int {
		mu.Lock()
		defer mu.Unlock()
		return docs[kind][digest]
	}
	return []registered{
		{"policy", func(n int) change {
			return change{"PUT", ns + "/policies/default_cpu", fmt.Appendf(nil, "%s\n# version %d\n", fakePolicy(), n)}
		}, func(a *adminClient) int {
			_, v, _ := strings.Cut(read[trusteeapi.Policy](a, ns+"/policies/default_cpu").Text, "# version ")
			n, _ := strconv.Atoi(strings.TrimSpace(v))
			return n
		}},
		{"reference values", func(n int) change {
			return change{"PUT", ns + "/reference-values/build", once("bundle", n, func() []byte {
				b := tpmtest.References()
				b.Provenance = refvalue.Provenance{Tool: fmt.Sprint("build ", n)}
				b.AddValues("version", n)
				doc, err := json.Marshal(b)
				if err != nil {
					t.Fatal(err)
				}
				return doc
			})}
		}, func(a *adminClient) int {
			l := read[[]trusteeapi.ReferenceValues](a, ns+"/reference-values")
			if len(l) == 0 {
				return 0
			}
			return which("bundle", l[0].ID)
		}},
		{"anchor", func(n int) change {
			return change{"PUT", ns + "/anchors/cca/trust-anchors", once("anchor", n, func() []byte { return trustAnchors(t) })}
		}, func(a *adminClient) int {
			l := read[[]trusteeapi.Anchor](a, ns+"/anchors")
			if len(l) == 0 {
				return 0
			}
			return which("anchor", l[0].SHA256)
		}},
		{"root", func(n int) change {
			return post(ns+"/roots", trusteeapi.EKRoot{Certificate: string(once("root", n, func() []byte {
				return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tpmtest.NewCA(t, fmt.Sprint("maker ", n)).Root.Raw})
			}))})
		}, func(a *adminClient) int {
			have := map[int]bool{}
			for _, r := range read[[]trusteeapi.EKRoot](a, ns+"/roots") {
				have[which("root", sum([]byte(r.Certificate)))] = true
			}
			return consecutive(a.t, "root", have)
		}},
		{"seal", func(n int) change {
			return post(ns+"/seals", trusteeapi.SealInfo{JWS: string(once("seal", n, func() []byte {
				return []byte(w.seal(document(t, fmt.Sprint("pod ", n)), w.owner).Raw)
			}))})
		}, func(a *adminClient) int { return len(read[[]trusteeapi.SealInfo](a, ns+"/seals")) }},
		{"binding", func(n int) change {
			return post(ns+"/bindings/a/b/c", trusteeapi.Binding{Initdata: []string{fmt.Sprintf("sha256:%064x", n)}})
		}, func(a *adminClient) int {
			status, b := a.do("GET", ns+"/bindings/a/b/c", nil)
			if status == 404 {
				return 0
			}
			var v trusteeapi.Binding
			if err := json.Unmarshal(b, &v); err != nil {
				a.t.Fatal(err)
			}
			return len(v.Initdata)
		}},
		{"collateral", func(n int) change {
			at := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Format(time.RFC3339)
			return change{"POST", "/collateral", fmt.Appendf(nil, `{"version":1,"items":[{"origin":"https://vendor.example/list","body":%q,"fetched":%q}]}`,
				base64.StdEncoding.EncodeToString(make([]byte, n)), at)}
		}, func(a *adminClient) int {
			l := read[[]trusteeapi.Collateral](a, "/collateral")
			if len(l) == 0 {
				return 0
			}
			return l[0].Size
		}},
		// Enrolled and withdrawn in turn: key k+1 comes before k goes, so that what
		// is there tells how far it went.
		{"withdrawal", func(n int) change {
			if n%2 == 1 {
				return post(ns+"/enrolled-aks", trusteeapi.EnrolledAK{Name: fmt.Sprintf("000b%064x", n/2+1)})
			}
			if n == 2 {
				return post(ns+"/enrolled-aks", trusteeapi.EnrolledAK{Name: fmt.Sprintf("000b%064x", 1), Note: "again"})
			}
			return change{"DELETE", fmt.Sprintf("%s/enrolled-aks/000b%064x", ns, n/2-1), nil}
		}, func(a *adminClient) int {
			l := read[[]trusteeapi.EnrolledAK](a, ns+"/enrolled-aks")
			last := 0
			for _, k := range l {
				n, err := strconv.ParseInt(k.Name[4:], 16, 32)
				if err != nil {
					a.t.Fatal(err)
				}
				last = max(last, int(n))
			}
			switch {
			case len(l) == 0:
				return 0
			case last == 1 && l[0].Note == "":
				return 1
			case last == 1:
				return 2
			case len(l) == 2:
				return 2*last - 1
			}
			return 2 * last
		}},
	}
}

// consecutive gives the highest number, below which none may be missing.
func consecutive(t testing.TB, what string, have map[int]bool) int {
	t.Helper()
	for n := 1; ; n++ {
		if !have[n] {
			if len(have) != n-1 {
				t.Errorf("%s %d is missing, and later ones are there", what, n)
			}
			return n - 1
		}
	}
}

// TestKillNineTrust kills the server while everything that evidence is judged by
// is changed without a pause. After each kill every kind is as its last
// acknowledged change left it, or the one that was on its way, whole; and an
// attestation finds all of it in order.
func TestKillNineTrust(t *testing.T) {
	dir := t.TempDir()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	kinds := allRegistered(t, &world{t: t, owner: key})
	acked := make([]int, len(kinds))
	doc := document(t, "pod a")
	const rounds, perRound = 4, 10
	for round := range rounds {
		cmd, cfg := child(t, dir)
		admin := func() *adminClient {
			a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
			a.url = cfg.URL
			return a
		}
		a := admin()
		if round == 0 {
			a.takeFakes("default")
			a.addOwner("default", pub)
		}
		for i, k := range kinds {
			n := k.stored(a)
			if n != acked[i] && n != acked[i]+1 {
				t.Errorf("round %d: %s: change %d was acknowledged, and what is there is of change %d", round, k.name, acked[i], n)
			}
			acked[i] = n
		}
		c := newRCAR(t, cfg.CAPEM, cfg.URL)
		c.handshake(doc)
		if c.token == "" {
			t.Errorf("round %d: no attestation", round)
		}
		if round == rounds-1 {
			break
		}
		// Killed when every kind is in the middle of it, however busy the machine is.
		var wg, warm sync.WaitGroup
		warm.Add(len(kinds))
		for i, k := range kinds {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a, from := admin(), acked[i]
				warmed := sync.OnceFunc(warm.Done)
				defer warmed()
				for ; ; acked[i]++ {
					if acked[i] == from+perRound {
						warmed()
					}
					c := k.change(acked[i] + 1)
					if status := attempt(a, c); status == 0 {
						return // it was killed
					} else if status/100 != 2 {
						t.Errorf("%s: change %d: %d", k.name, acked[i]+1, status)
						return
					}
				}
			}()
		}
		warm.Wait()
		time.Sleep(50 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		wg.Wait()
	}
	for i, k := range kinds {
		if acked[i] < perRound*(rounds-1) {
			t.Errorf("%s: only %d changes: the test shows nothing", k.name, acked[i])
		}
		t.Logf("%s: %d changes", k.name, acked[i])
	}
}

// attempt sends a change; 0: the server did not answer, or not whole.
func attempt(a *adminClient, c change) int {
	path := trusteeapi.PathPrefix + c.path
	req, err := http.NewRequest(c.method, a.url+path, bytes.NewReader(c.body))
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+a.token(c.method, path))
	resp, err := a.http.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// tornStore fails the n-th write of a transaction while it is armed.
type tornStore struct {
	store.Store
	at atomic.Int64 // 0: never
}

type tornTx struct {
	store.Tx
	left *atomic.Int64
}

func (x tornTx) fail() error {
	if x.left.Add(-1) == 0 {
		return errors.New("no space left on device")
	}
	return nil
}

func (x tornTx) Put(bucket, key string, v []byte) error {
	if err := x.fail(); err != nil {
		return err
	}
	return x.Tx.Put(bucket, key, v)
}

func (x tornTx) Delete(bucket, key string) error {
	if err := x.fail(); err != nil {
		return err
	}
	return x.Tx.Delete(bucket, key)
}

func (s *tornStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	at := s.at.Load()
	return s.Store.Update(ctx, func(tx store.Tx) error {
		left := new(atomic.Int64)
		left.Store(at)
		return fn(tornTx{tx, left})
	})
}

// A disk that fails at any one write of a change leaves all of it undone: nothing
// is half registered, and what is prepared stays in force.
func TestStoreFaultChangesNothing(t *testing.T) {
	var torn *tornStore
	w := newWorld(t, func(c *Config) {
		c.WrapStore = func(s store.Store) store.Store { torn = &tornStore{Store: s}; return torn }
	})
	w.admin.addOwner("default", w.owner.Public())
	doc := document(t, "pod a")
	for _, k := range allRegistered(t, w) {
		t.Run(k.name, func(t *testing.T) {
			for n := 1; n <= 4; n++ {
				c, faults := k.change(n), 0
				for at := int64(1); ; at++ {
					torn.at.Store(at)
					status, b := w.admin.do(c.method, c.path, c.body)
					torn.at.Store(0)
					if status/100 == 2 {
						break
					}
					faults++
					if status != 500 || strings.Contains(string(b), "no space") {
						t.Fatalf("change %d, fault at write %d: %d %s", n, at, status, b)
					}
					if got := k.stored(w.admin); got != n-1 {
						t.Fatalf("change %d failed at write %d and left state %d", n, at, got)
					}
					if at > 20 {
						t.Fatal("the change never comes through")
					}
				}
				if faults == 0 {
					t.Errorf("change %d wrote nothing: the test shows nothing", n)
				}
				if got := k.stored(w.admin); got != n {
					t.Errorf("after change %d: state %d", n, got)
				}
			}
		})
	}
	c := w.client("")
	c.handshake(doc)
	if c.token == "" {
		t.Error("no attestation after the faults")
	}
}
