package nebulaca

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slackhq/nebula/cert"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// place is a store on disk with its envelope key.
type place struct {
	t   *testing.T
	dir string
	st  *bolt.Store
	kek *keyring.FileKEK
	now time.Time
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir(), now: time.Now().UTC().Truncate(time.Second)}
	p.open()
	return p
}

// open opens the store again, as after a restart.
func (p *place) open() {
	p.t.Helper()
	if p.st != nil {
		p.st.Close()
	}
	var err error
	if p.st, err = bolt.Open(filepath.Join(p.dir, "store"), time.Second); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.st.Close() })
	path := filepath.Join(p.dir, "kek")
	if p.kek == nil {
		p.kek, err = keyring.CreateFileKEK(path)
	} else {
		p.kek, err = keyring.OpenFileKEK(path)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) ca(c Config) *CA {
	p.t.Helper()
	ca, err := New(p.t.Context(), c, p.st, p.kek, func() time.Time { return p.now })
	if err != nil {
		p.t.Fatal(err)
	}
	return ca
}

// issued is a credential as a node reads it: the published answer, with lists of numbers.
type issued struct {
	node, authority cert.Certificate
	key             []byte
	curve           cert.Curve
}

func (p *place) issue(ca *CA, ns string, q map[string]string) (*issued, error) {
	p.t.Helper()
	params, err := ParseParams(q)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := ca.Issue(p.t.Context(), ns, params)
	if err != nil {
		return nil, err
	}
	var doc map[string][]int
	if err := json.Unmarshal(b, &doc); err != nil || len(doc) != 3 {
		p.t.Fatalf("%s: %v", b, err)
	}
	text := func(name string) []byte {
		var out []byte
		for _, n := range doc[name] {
			out = append(out, byte(n))
		}
		return out
	}
	out := &issued{}
	if out.node, _, err = cert.UnmarshalCertificateFromPEM(text("node_crt")); err != nil {
		p.t.Fatal(err)
	}
	if out.authority, _, err = cert.UnmarshalCertificateFromPEM(text("ca_crt")); err != nil {
		p.t.Fatal(err)
	}
	if out.key, _, out.curve, err = cert.UnmarshalPrivateKeyFromPEM(text("node_key")); err != nil {
		p.t.Fatal(err)
	}
	if bytes.Contains(b, []byte("SIGNING")) {
		p.t.Error("the authority's key is in the answer")
	}
	return out, nil
}

func (i *issued) check(t *testing.T, now time.Time) {
	t.Helper()
	pool := cert.NewCAPool()
	if err := pool.AddCA(i.authority); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.VerifyCertificate(now, i.node); err != nil {
		t.Error(err)
	}
	if err := i.node.VerifyPrivateKey(i.curve, i.key); err != nil {
		t.Error(err)
	}
}

func TestIssue(t *testing.T) {
	p := newPlace(t)
	for what, tc := range map[string]struct {
		c     Config
		query map[string]string
	}{
		"as published": {Config{}, map[string]string{"name": "pod1", "ip": "10.11.0.5/16"}},
		"P-256":        {Config{Curve: CurveP256}, map[string]string{"name": "pod1", "ip": "10.11.0.5/16"}},
		"version 2":    {Config{Version: 2}, map[string]string{"name": "pod1", "ip": "fd00::5/64"}},
		"everything": {Config{Groups: []string{"web", "db"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
			map[string]string{"name": "pod1", "ip": "10.11.0.5/16", "groups": "web, db", "subnets": "192.168.0.0/24", "duration": "1h30m"}},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := p.issue(p.ca(tc.c), "default", tc.query)
			if err != nil {
				t.Fatal(err)
			}
			got.check(t, p.now)
			if n := got.node; n.Name() != "pod1" || n.Networks()[0].String() != tc.query["ip"] || n.IsCA() || got.authority.Name() != DefaultName {
				t.Errorf("%s by %s", n, got.authority)
			}
			end := got.authority.NotAfter().Add(-time.Second)
			if tc.query["duration"] != "" {
				end = p.now.Add(90 * time.Minute)
				if g := got.node.Groups(); len(g) != 2 || got.node.UnsafeNetworks()[0].String() != "192.168.0.0/24" {
					t.Errorf("%s", got.node)
				}
			}
			if !got.node.NotAfter().Equal(end) {
				t.Errorf("until %s, not %s", got.node.NotAfter(), end)
			}
		})
	}
}

func TestAuthorityLasts(t *testing.T) {
	p := newPlace(t)
	q := map[string]string{"name": "a", "ip": "10.0.0.1/24"}
	fingerprint := func(c Config, ns string) string {
		t.Helper()
		got, err := p.issue(p.ca(c), ns, q)
		if err != nil {
			t.Fatal(err)
		}
		f, err := got.authority.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := fingerprint(Config{}, "default")
	p.open()
	if fingerprint(Config{}, "default") != first {
		t.Error("another authority after a restart")
	}
	if fingerprint(Config{}, "other") == first {
		t.Error("two namespaces have one authority")
	}
	if fingerprint(Config{Groups: []string{"web"}}, "default") == first {
		t.Error("other limits, and the same authority")
	}
	if fingerprint(Config{}, "default") != first {
		t.Error("the old settings have not the old authority")
	}
	// Nothing of a key is in the store's file as it is.
	b, err := os.ReadFile(filepath.Join(p.dir, "store"))
	if err != nil || bytes.Contains(b, []byte("NEBULA")) {
		t.Errorf("plain in the store, or %v", err)
	}
	// One that has ended issues nothing, and another name is another authority.
	p.now = p.now.Add(DefaultDuration + time.Hour)
	if _, err := p.issue(p.ca(Config{}), "default", q); !errors.Is(err, release.ErrRefused) {
		t.Errorf("by an authority that has ended: %v", err)
	}
	if _, err := p.issue(p.ca(Config{Name: "next"}), "default", q); err != nil {
		t.Error(err)
	}
}

func TestLimitsOfTheAuthority(t *testing.T) {
	p := newPlace(t)
	ca := p.ca(Config{
		Groups: []string{"web"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Subnets: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")},
	})
	for what, q := range map[string]map[string]string{
		"a group":   {"name": "a", "ip": "10.0.0.1/24", "groups": "web,admin"},
		"a network": {"name": "a", "ip": "10.1.0.1/24"}, "a wider network": {"name": "a", "ip": "10.0.0.1/8"},
		"a subnet": {"name": "a", "ip": "10.0.0.1/24", "subnets": "172.16.0.0/24"}, "a time": {"name": "a", "ip": "10.0.0.1/24", "duration": "9000h"},
		"another version's": {"name": "a", "ip": "fd00::1/64"},
	} {
		if got, err := p.issue(ca, "default", q); !errors.Is(err, release.ErrRefused) {
			t.Errorf("%s beyond the limits: %v, %v", what, got, err)
		}
	}
	if _, err := p.issue(ca, "default", map[string]string{"name": "a", "ip": "10.0.0.1/24", "groups": "web", "subnets": "192.168.1.0/24"}); err != nil {
		t.Error(err)
	}
}

// TestTakeOver has an authority of the published plugin's folder go on.
func TestTakeOver(t *testing.T) {
	p := newPlace(t)
	old, err := (&CA{cfg: Config{Name: "old", Curve: Curve25519, Duration: time.Hour, Version: 2}, now: func() time.Time { return p.now }}).mint()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "ca"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca", name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{Folder: dir}
	try := func() error {
		_, err := New(t.Context(), c, p.st, p.kek, func() time.Time { return p.now })
		return err
	}
	write("ca.crt", old.Cert)
	if try() == nil {
		t.Error("half an authority is taken")
	}
	stranger, err := (&CA{cfg: Config{Name: "x", Curve: Curve25519, Duration: time.Hour, Version: 2}, now: func() time.Time { return p.now }}).mint()
	if err != nil {
		t.Fatal(err)
	}
	write("ca.key", stranger.Key)
	if try() == nil {
		t.Error("another's key is taken")
	}
	write("ca.key", old.Key)
	q := map[string]string{"name": "a", "ip": "10.0.0.1/24"}
	got, err := p.issue(p.ca(c), "default", q)
	if err != nil || got.authority.Name() != "old" {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err := p.issue(p.ca(c), "other", q); err != nil || got.authority.Name() == "old" {
		t.Errorf("another namespace: %v, %v", got, err)
	}
	if err := try(); err != nil {
		t.Errorf("with the folder that was taken over: %v", err)
	}
	write("ca.crt", stranger.Cert)
	write("ca.key", stranger.Key)
	if try() == nil {
		t.Error("another authority's folder is ignored")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := p.issue(p.ca(c), "default", q); err != nil || got.authority.Name() != "old" {
		t.Errorf("without the folder: %v, %v", got, err)
	}
	if got, err := p.issue(p.ca(Config{}), "default", q); err != nil || got.authority.Name() != "old" {
		t.Errorf("without the setting: %v, %v", got, err)
	}
}

// TestTampered has nothing issued where the store gives another's authority.
func TestTampered(t *testing.T) {
	p := newPlace(t)
	ca, q := p.ca(Config{}), map[string]string{"name": "a", "ip": "10.0.0.1/24"}
	for _, ns := range []string{"a", "b"} {
		if _, err := p.issue(ca, ns, q); err != nil {
			t.Fatal(err)
		}
	}
	key := func(ns string) string { return "authority/" + ca.place(ns) }
	if err := p.st.Update(t.Context(), func(tx store.Tx) error {
		b, err := tx.Get("keyring", key("a"))
		if err != nil || b == nil {
			t.Fatalf("%s, %v", b, err)
		}
		return tx.Put("keyring", key("b"), bytes.Clone(b))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.issue(ca, "b", q); err == nil {
		t.Error("another namespace's authority was taken for b's")
	}
}

func TestParseParams(t *testing.T) {
	for _, q := range []map[string]string{
		{}, {"name": "a"}, {"ip": "10.0.0.1/24"}, {"name": "", "ip": "10.0.0.1/24"}, {"name": "a", "ip": "10.0.0.1"}, {"name": "a", "ip": "10.0.0.1/33"},
		{"name": "a", "ip": "10.0.0.1/24,10.0.0.2/24"}, {"name": ".a", "ip": "10.0.0.1/24"}, {"name": "a/b", "ip": "10.0.0.1/24"}, {"name": strings.Repeat("a", 64), "ip": "10.0.0.1/24"},
		{"name": "a", "ip": "::ffff:10.0.0.1/120"}, {"name": "a", "ip": "fe80::1%eth0/64"}, {"name": "a", "ip": "10.0.0.1/24", "duration": "-1h"},
		{"name": "a", "ip": "10.0.0.1/24", "duration": "0s"}, {"name": "a", "ip": "10.0.0.1/24", "duration": "forever"}, {"name": "a", "ip": "10.0.0.1/24", "duration": "1.5h"},
		{"name": "a", "ip": "10.0.0.1/24", "group": "web"}, {"name": "a", "ip": "10.0.0.1/24", "subnets": "x"}, {"name": "a", "ip": "10.0.0.1/24", "groups": strings.Repeat("a,", 65)},
	} {
		if p, err := ParseParams(q); err == nil {
			t.Errorf("%v: %+v", q, p)
		}
	}
	for ip, want := range map[string]string{"10.0.0.1/24": "nebula-ca/a/10.0.0.1_24", "FD00:0::1/64": "nebula-ca/a/fd00--1_64"} {
		p, err := ParseParams(map[string]string{"name": "a", "ip": ip})
		if err != nil || p.Resource() != want || p.Privileged() {
			t.Errorf("%s: %+v, %v", ip, p, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for key, values := range map[string][]string{
		"curve": {"P384"}, "duration": {"", "0h", "x"}, "ips": {"10.0.0.1"}, "subnets": {"x"}, "version": {"0", "3", ""}, "argon_memory": {"1"}, "groups": {strings.Repeat("a", 300)},
		"name": {strings.Repeat("a", 300)},
	} {
		for _, v := range values {
			c := &Config{}
			if err := errors.Join(c.Set(key, v), c.complete()); err == nil {
				t.Errorf("%s=%.40s is taken", key, v)
			}
		}
	}
	c := Config{Networks: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}}
	if c.complete() == nil {
		t.Error("IPv6 in version 1")
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add("a", "10.0.0.1/24", "1h", "x,y", "192.168.0.0/16")
	f.Add("a-b.c", "fd00::1/64", "", "", "")
	f.Fuzz(func(t *testing.T, name, ip, lasts, groups, subnets string) {
		p, err := ParseParams(map[string]string{"name": name, "ip": ip, "duration": lasts, "groups": groups, "subnets": subnets})
		if err != nil {
			return
		}
		// The name must be one that can be bound: three parts, none with a slash of its own.
		if parts := strings.Split(p.Resource(), "/"); len(parts) != 3 || !hostName.MatchString(parts[1]) || strings.ContainsAny(parts[2], ":% ") {
			t.Errorf("%q", p.Resource())
		}
	})
}
