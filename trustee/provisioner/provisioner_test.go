package provisioner

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// shelf keeps secrets as the gate does: IfVersion 0 takes only a new name.
type shelf struct {
	have map[string][]byte
	away error // what the store answers, if anything
	no   bool  // no administrator may change anything
}

func (s *shelf) Put(_ context.Context, ns, name string, secret []byte, o release.PutOptions) (*trusteeapi.Resource, error) {
	if s.away != nil {
		return nil, s.away
	}
	if _, ok := s.have[ns+"/"+name]; ok && o.IfVersion != nil && *o.IfVersion == 0 {
		return nil, tenant.ErrConflict
	}
	s.have[ns+"/"+name] = bytes.Clone(secret)
	return &trusteeapi.Resource{}, nil
}

func (s *shelf) Delete(_ context.Context, ns, name string) error {
	if s.away != nil {
		return s.away
	}
	if _, ok := s.have[ns+"/"+name]; !ok {
		return tenant.ErrNotFound
	}
	delete(s.have, ns+"/"+name)
	return nil
}

var errNo = errors.New("no")

func (s *shelf) MayChange(context.Context, string, string, string, string, string) error {
	if s.no {
		return errNo
	}
	return nil
}

func TestProvision(t *testing.T) {
	s := &shelf{have: map[string][]byte{}}
	p, err := New(s, DefaultKeyLength)
	if err != nil {
		t.Fatal(err)
	}
	by := Caller{Namespace: "default", Actor: "a"}
	// The UUIDs are those of another implementation (Python's uuid.uuid5).
	for body, id := range map[string]string{
		`{"vm_name":"my-vm"}`:                   "211568cd-f669-5123-9f71-ce4765de93d6",
		`{"vm_name":"db","namespace":"prod"}`:   "d7a6164e-dd7c-5035-b970-bbf33ab64a6e",
		` {"namespace":"prod","vm_name":"db"} `: "d7a6164e-dd7c-5035-b970-bbf33ab64a6e",
	} {
		b, err := p.Provision(t.Context(), by, []byte(body))
		if want := `{"uuid":"` + id + `","resource_path":"default/` + id + `/root"}`; err != nil || string(b) != want {
			t.Errorf("%s: %s, %v; want %s", body, b, err, want)
		}
	}
	if len(s.have) != 2 {
		t.Fatalf("%d secrets", len(s.have))
	}
	name, err := Resource([]string{"default", "211568cd-f669-5123-9f71-ce4765de93d6", "root"})
	if err != nil {
		t.Fatal(err)
	}
	first := s.have["default/"+name]
	var doc struct {
		Version string            `toml:"version"`
		Data    map[string]string `toml:"data"`
	}
	if _, err := toml.Decode(string(first), &doc); err != nil || doc.Version != "0.1.0" || len(doc.Data) != 1 || len(doc.Data["io.cryptsetup.key.text.root"]) != DefaultKeyLength {
		t.Errorf("%s: %v", first, err)
	}
	// Asking again changes nothing; after it was deleted the key is another one.
	if _, err := p.Provision(t.Context(), by, []byte(`{"vm_name":"my-vm"}`)); err != nil || !bytes.Equal(s.have["default/"+name], first) {
		t.Errorf("asked again: %v, or another key", err)
	}
	for range 2 {
		if b, err := p.Deprovision(t.Context(), by, "211568cd-f669-5123-9f71-ce4765de93d6"); err != nil || string(b) != `{"status":"deleted"}` {
			t.Errorf("deleted: %s, %v", b, err)
		}
	}
	if _, err := p.Provision(t.Context(), by, []byte(`{"vm_name":"my-vm"}`)); err != nil || s.have["default/"+name] == nil || bytes.Equal(s.have["default/"+name], first) {
		t.Errorf("made anew: %v, or the same key", err)
	}
	// A store that is away, and a policy that forbids, are no success.
	for what, bad := range map[string]*shelf{"away": {have: map[string][]byte{}, away: errNo}, "forbidden": {have: s.have, no: true}} {
		p, err := New(bad, DefaultKeyLength)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := p.Provision(t.Context(), by, []byte(`{"vm_name":"x"}`)); !errors.Is(err, errNo) {
			t.Errorf("%s: %s, %v", what, b, err)
		}
		if b, err := p.Deprovision(t.Context(), by, "211568cd-f669-5123-9f71-ce4765de93d6"); !errors.Is(err, errNo) {
			t.Errorf("%s: %s, %v", what, b, err)
		}
	}
	if s.have["default/"+name] == nil {
		t.Error("deleted against a policy")
	}
}

func TestRefused(t *testing.T) {
	p, err := New(&shelf{have: map[string][]byte{}}, DefaultKeyLength)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{
		``, `null`, `[]`, `{}`, `{"vm_name":""}`, `{"vm_name":1}`, `{"vm_name":"a","x":1}`, `{"vm_name":"a"} {}`, `{"vm_name":"a/b"}`, `{"vm_name":"a","namespace":"b/c"}`,
		`{"vm_name":"a","namespace":""}`, `{"vm_name":"` + strings.Repeat("a", maxName+1) + `"}`, `{"vm_name":"a"}` + strings.Repeat(" ", MaxBody),
	} {
		if b, err := p.Provision(t.Context(), Caller{}, []byte(body)); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%.60s: %s, %v", body, b, err)
		}
	}
	for _, id := range []string{"", "x", "../../x", "211568cd-f669-5123-9f71-ce4765de93d6/", "211568cd-f669-5123-9f71-ce4765de93d6 ", strings.ToUpper("211568cd-f669-5123-9f71-ce4765de93d6")} {
		if b, err := p.Deprovision(t.Context(), Caller{}, id); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%q: %s, %v", id, b, err)
		}
		if n, err := Resource([]string{"default", id, "root"}); err == nil {
			t.Errorf("%q is at %s", id, n)
		}
	}
	for _, l := range [][]string{nil, {"default", "211568cd-f669-5123-9f71-ce4765de93d6"}, {"other", "211568cd-f669-5123-9f71-ce4765de93d6", "root"}, {"default", "211568cd-f669-5123-9f71-ce4765de93d6", "home"}, {"default", "211568cd-f669-5123-9f71-ce4765de93d6", "root", ""}} {
		if n, err := Resource(l); err == nil {
			t.Errorf("%q is at %s", l, n)
		}
	}
	for _, n := range []int{-1, 0, minKeyLength - 1, maxKeyLength + 1} {
		if _, err := New(&shelf{}, n); err == nil {
			t.Errorf("keys of %d characters are made", n)
		}
	}
}

// TestKey finds each character about as often as any other.
func TestKey(t *testing.T) {
	const n = 62 * 2000
	count := map[byte]int{}
	for _, c := range key(n) {
		count[c]++
	}
	if len(count) != len(alphabet) {
		t.Fatalf("%d characters", len(count))
	}
	for c, k := range count {
		if k < 1700 || k > 2300 { // more than six standard deviations
			t.Errorf("%c: %d times of %d", c, k, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"vm_name":"a","namespace":"b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err == nil && (r.VM == "" || strings.Contains(r.VM+r.Namespace, "/")) {
			t.Errorf("%+v", r)
		}
		if err == nil {
			if id := identifier(r.Namespace + "/" + r.VM); !uuid.MatchString(id) {
				t.Errorf("%q is no UUID", id)
			}
		}
	})
}
