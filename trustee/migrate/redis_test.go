package migrate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeRedis is a server with as much of Redis as its description of the protocol and
// of these commands says; it shares no code with the client.
type fakeRedis struct {
	t              testing.TB
	user, password string
	databases      map[string]map[string]string
	lists          map[string]bool // keys that are lists
	raw            map[string]string
	cutAfter       int // bytes of an answer after which the connection is cut; 0: never

	mu   sync.Mutex
	seen []string
}

func (f *fakeRedis) serve(t testing.TB, conf *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f.talk(c)
		}
	}()
	return ln.Addr().String()
}

func (f *fakeRedis) talk(c net.Conn) {
	defer c.Close()
	r, sent := bufio.NewReader(c), 0
	known, db := f.password == "", "0"
	for {
		args, err := command(r)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.seen = append(f.seen, args[0])
		f.mu.Unlock()
		answer := f.answer(args, &known, &db)
		if f.cutAfter > 0 && sent+len(answer) > f.cutAfter {
			io.WriteString(c, answer[:max(0, f.cutAfter-sent)])
			return
		}
		n, err := io.WriteString(c, answer)
		if sent += n; err != nil {
			return
		}
	}
}

// command reads an array of bulk strings.
func command(r *bufio.Reader) ([]string, error) {
	var n int
	if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
		return nil, err
	}
	var out []string
	for range n {
		var size int
		if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		out = append(out, string(b[:size]))
	}
	return out, nil
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

func (f *fakeRedis) answer(args []string, known *bool, db *string) string {
	if a, ok := f.raw[args[0]]; ok {
		return a
	}
	if args[0] == "AUTH" {
		want := []string{"AUTH", f.password}
		if f.user != "" {
			want = []string{"AUTH", f.user, f.password}
		}
		if !slices.Equal(args, want) {
			return "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
		}
		*known = true
		return "+OK\r\n"
	}
	if !*known {
		return "-NOAUTH Authentication required.\r\n"
	}
	data := f.databases[*db]
	switch args[0] {
	case "SELECT":
		*db = args[1]
		return "+OK\r\n"
	case "SCAN":
		return f.scan(data, args)
	case "TYPE":
		switch _, ok := data[args[1]]; {
		case !ok:
			return "+none\r\n"
		case f.lists[args[1]]:
			return "+list\r\n"
		}
		return "+string\r\n"
	case "GETRANGE":
		to, err := strconv.Atoi(args[3])
		if err != nil {
			return "-ERR value is not an integer or out of range\r\n"
		}
		v := data[args[1]]
		return bulk(v[:min(len(v), to+1)])
	}
	return "-ERR unknown command\r\n"
}

// scan gives three keys at a time, whether they match or not, and the first one twice.
func (f *fakeRedis) scan(data map[string]string, args []string) string {
	prefix, ok := strings.CutSuffix(args[3], "*")
	at, err := strconv.Atoi(args[1])
	if !ok || args[2] != "MATCH" || err != nil {
		return "-ERR syntax error\r\n"
	}
	all := slices.Sorted(maps.Keys(data))
	if len(all) > 0 {
		all = append(all, all[0])
	}
	end := min(at+3, len(all))
	next := end
	if end == len(all) {
		next = 0
	}
	var page []string
	for _, k := range all[at:end] {
		if strings.HasPrefix(k, prefix) {
			page = append(page, bulk(k))
		}
	}
	return "*2\r\n" + bulk(strconv.Itoa(next)) + fmt.Sprintf("*%d\r\n", len(page)) + strings.Join(page, "")
}

// kept is one content of every store that the existing services write.
func kept() map[string]string {
	return map[string]string{
		"repository:one/two/three":                    "hunter2",
		"repository:binary/one/x":                     "\r\n$3\r\n\x00\xff",
		"repository:empty/one/x":                      "",
		"repository:big/one/x":                        strings.Repeat("x", maxFile+1),
		"repository:list/one/x":                       "",
		"attestation_service_policy:default_cpu.rego": rego,
		"reference_value:svn":                         stored("svn", "2027-03-01T00:00:00Z", "[1]"),
		"kbs:resource-policy.rego":                    "package policy\ndefault allow = true",
		"kbs_protocol_session:0123456789abcdef":       "{}",
		"somebody-else:x":                             "not ours",
	}
}

func TestRedis(t *testing.T) {
	f := &fakeRedis{t: t, databases: map[string]map[string]string{"0": {}, "3": kept()}, lists: map[string]bool{"repository:list/one/x": true}}
	src, err := Redis(RedisServer{URL: "redis://" + f.serve(t, nil) + "/3"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Action{
		"repository/one/two/three": Import, "repository/binary/one/x": Import, "repository/empty/one/x": Import, "repository/big/one/x": Refuse, "repository/list/one/x": Refuse,
		"attestation_service_policy/default_cpu.rego": Import, "reference_value/svn": Import, "kbs/resource-policy.rego": Skip, "kbs_protocol_session/0123456789abcdef": Skip,
	}
	s := newShop()
	for _, dry := range []bool{true, false} {
		r, err := Run(t.Context(), src, s, Options{DryRun: dry, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if got := actions(r); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if dry && len(s.secrets)+len(s.policies)+len(s.bundles) > 0 {
			t.Error("a dry run changed something")
		}
	}
	if s.secrets["one/two/three"] != "hunter2" || s.secrets["binary/one/x"] != "\r\n$3\r\n\x00\xff" || s.policies["default_cpu"] != rego || len(s.bundles) != 1 {
		t.Errorf("%q", s.secrets)
	}
	// Once more it is all there.
	r, err := Run(t.Context(), src, s, Options{Now: now})
	if err != nil || r.Counts[Import] != 0 || r.Counts[Present] != 5 {
		t.Errorf("once more: %v %v", err, r.Counts)
	}
	for _, c := range f.seen {
		if !slices.Contains([]string{"SELECT", "SCAN", "TYPE", "GETRANGE"}, c) {
			t.Errorf("the server was told %s", c)
		}
	}
	// Wherever it is cut off, nothing is written.
	whole := 0
	for f.cutAfter = 1; whole == 0; f.cutAfter += 1 + f.cutAfter/3 {
		s := newShop()
		if _, err := Run(t.Context(), src, s, Options{Now: now}); err == nil {
			whole = f.cutAfter
		} else if len(s.secrets)+len(s.policies)+len(s.bundles) > 0 {
			t.Errorf("cut off after %d bytes, and something was written", f.cutAfter)
		}
	}
	if whole < 1000 {
		t.Errorf("whole after %d bytes: the test shows nothing", whole)
	}
}

func TestRedisPasswordAndTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	f := &fakeRedis{t: t, user: "reader", password: "s3cret", databases: map[string]map[string]string{"0": kept()}}
	addr := f.serve(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	for name, tc := range map[string]struct {
		s  RedisServer
		ok bool
	}{
		"good":                {RedisServer{URL: "rediss://reader@" + addr, Password: "s3cret", Authorities: pool}, true},
		"another password":    {RedisServer{URL: "rediss://reader@" + addr, Password: "s3cre", Authorities: pool}, false},
		"no user":             {RedisServer{URL: "rediss://" + addr, Password: "s3cret", Authorities: pool}, false},
		"no password":         {RedisServer{URL: "rediss://" + addr, Authorities: pool}, false},
		"unknown certificate": {RedisServer{URL: "rediss://reader@" + addr, Password: "s3cret", Authorities: x509.NewCertPool()}, false},
		"no TLS":              {RedisServer{URL: "redis://reader@" + addr, Password: "s3cret"}, false},
	} {
		src, err := Redis(tc.s)
		if err != nil {
			t.Fatal(err)
		}
		items, err := src(t.Context())
		if (err == nil) != tc.ok || tc.ok != (len(items) > 0) {
			t.Errorf("%s: %d entries, %v", name, len(items), err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cre") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
	for _, bad := range []string{"redis://10.0.0.1", "redis://db.example", "http://127.0.0.1", "redis://u:p@127.0.0.1", "redis://127.0.0.1/x", "redis://127.0.0.1/0?x=y", "redis:", "rediss://u:p@h\x7f"} {
		if _, err := Redis(RedisServer{URL: bad}); err == nil {
			t.Errorf("%s is taken", bad)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func TestRedisLies(t *testing.T) {
	for name, raw := range map[string]map[string]string{
		"an endless line":          {"SCAN": "+" + strings.Repeat("x", maxReplyLine+2)},
		"a huge text":              {"SCAN": "$999999999999\r\n"},
		"a huge list":              {"SCAN": "*999999999\r\n"},
		"nesting":                  {"SCAN": strings.Repeat("*1\r\n", 100)},
		"a key of somebody else's": {"SCAN": "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nabc\r\n"},
		"one part":                 {"SCAN": "*1\r\n$1\r\n0\r\n"},
		"a number":                 {"SCAN": ":1\r\n"},
		"null":                     {"SCAN": "*-1\r\n"},
		"moved":                    {"TYPE": "-MOVED 3999 127.0.0.1:6381\r\n"},
		"too much of a value":      {"GETRANGE": bulk(strings.Repeat("x", maxFile+2))},
		"a number for a value":     {"GETRANGE": ":1\r\n"},
		"another end":              {"GETRANGE": "$1\r\nxyz"},
	} {
		f := &fakeRedis{t: t, databases: map[string]map[string]string{"0": kept()}, raw: raw}
		src, err := Redis(RedisServer{URL: "redis://" + f.serve(t, nil)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if items, err := src(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %d entries, %v", name, len(items), err)
		}
		cancel()
	}
}

// FuzzReply: no answer panics, takes more memory than it has bytes for, or is read
// beyond its end.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "-ERR x\r\n", ":12\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n", "*-1\r\n", "$5\r\nab"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		v, err := reply(r, 1<<20)
		if err != nil {
			return
		}
		if text, ok := v.([]byte); ok && len(text) > len(b) {
			t.Errorf("%d bytes of %d", len(text), len(b))
		}
	})
}
