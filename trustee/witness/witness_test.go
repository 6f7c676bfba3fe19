package witness

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
)

func checkpoint(n int) auditlog.Signed {
	return auditlog.Signed{Checkpoint: fmt.Sprintf("a.%d.c", n), PublicKey: "-----BEGIN PUBLIC KEY-----\nx\n"}
}

// pki is who vouches for receivers and senders, with a certificate for both.
type pki struct {
	ca, cert, key string // files
	pair          tls.Certificate
	pool          *x509.CertPool
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{ca: filepath.Join(dir, "ca"), cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key"), pool: x509.NewCertPool()}
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	k := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	for name, b := range map[string][]byte{p.ca: c, p.cert: c, p.key: k} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p.pair, err = tls.X509KeyPair(c, k); err != nil {
		t.Fatal(err)
	}
	p.pool.AppendCertsFromPEM(c)
	return p
}

// kept is what a fake receiver has.
type kept struct {
	mu  sync.Mutex
	all []string
}

func (k *kept) add(s string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, s)
}

func (k *kept) wait(t *testing.T, n int) []string {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		all := append([]string(nil), k.all...)
		k.mu.Unlock()
		if len(all) >= n {
			return all
		}
		if time.Now().After(until) {
			t.Fatalf("the receiver has %d of %d: %q", len(all), n, all)
		}
	}
}

func newSet(t *testing.T, c Config) *Set {
	t.Helper()
	c.Log, c.Backoff = slog.New(slog.DiscardHandler), 5*time.Millisecond
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
	})
	return s
}

// hook is a webhook that misbehaves in the ways that it is told, one for each request,
// and then behaves.
func hook(t *testing.T, p *pki, k *kept, check func(*http.Request, []byte) error, ways ...string) string {
	t.Helper()
	var mu sync.Mutex
	over := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		way := ""
		if len(ways) > 0 {
			way, ways = ways[0], ways[1:]
		}
		mu.Unlock()
		b, err := io.ReadAll(r.Body)
		if err == nil && check != nil {
			err = check(r, b)
		}
		if err != nil {
			t.Errorf("request: %v", err)
		}
		switch way {
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		case "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case "cut":
			panic(http.ErrAbortHandler)
		case "hang":
			select {
			case <-over:
			case <-r.Context().Done():
			}
		default:
			k.add(string(b))
		}
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.pair}, ClientCAs: p.pool, ClientAuth: tls.VerifyClientCertIfGiven}
	s.StartTLS()
	t.Cleanup(func() { close(over); s.CloseClientConnections(); s.Close() })
	return s.URL
}

func hmacKey(t *testing.T) (file string, key []byte) {
	t.Helper()
	key = []byte("0123456789abcdef0123456789abcdef")
	file = filepath.Join(t.TempDir(), "hmac")
	if err := os.WriteFile(file, append(key, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, key
}

func TestWebhook(t *testing.T) {
	p := newPKI(t)
	file, key := hmacKey(t)
	signed := func(r *http.Request, b []byte) error {
		at, _, ok := strings.Cut(strings.TrimPrefix(r.Header.Get(SignatureHeader), "t="), ",")
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil || !ok || signature(key, n, b) != r.Header.Get(SignatureHeader) || time.Since(time.Unix(n, 0)).Abs() > time.Minute {
			return fmt.Errorf("signature %q", r.Header.Get(SignatureHeader))
		}
		return nil
	}
	mutual := func(r *http.Request, _ []byte) error {
		if len(r.TLS.PeerCertificates) != 1 {
			return fmt.Errorf("no certificate of the sender")
		}
		return nil
	}
	for name, tc := range map[string]struct {
		target Target
		check  func(*http.Request, []byte) error
		ways   []string
	}{
		"hmac":              {Target{HMACFile: file}, signed, nil},
		"mutual TLS":        {Target{CertFile: p.cert, KeyFile: p.key}, mutual, nil},
		"fails, then works": {Target{HMACFile: file}, signed, []string{"500", "cut", "redirect", "500"}},
	} {
		t.Run(name, func(t *testing.T) {
			k, failures := new(kept), new(kept)
			tc.target.URL, tc.target.CAFile = hook(t, p, k, tc.check, tc.ways...)+"/in?token=hidden", p.ca
			s := newSet(t, Config{Targets: []Target{tc.target}, Required: 2, Failed: func() { failures.add("") }})
			if err := s.Check(); err == nil {
				t.Error("nothing was acknowledged yet, and all is well")
			}
			for i := range 3 {
				s.Publish(checkpoint(i))
			}
			for i, b := range k.wait(t, 3) {
				var c auditlog.Signed
				if err := json.Unmarshal([]byte(b), &c); err != nil || c != checkpoint(i) {
					t.Errorf("%d: %s, %v", i, b, err)
				}
			}
			s.Close(t.Context())
			if err := s.Check(); err != nil || s.Behind() != 0 {
				t.Errorf("%v, %d behind", err, s.Behind())
			}
			failures.wait(t, len(tc.ways))
		})
	}
}

// A receiver that hangs costs whoever publishes nothing, and is too far behind in the
// end; what is kept for it is bounded.
func TestReceiverHangs(t *testing.T) {
	p := newPKI(t)
	file, _ := hmacKey(t)
	k := new(kept)
	s := newSet(t, Config{Required: 3, Targets: []Target{{URL: hook(t, p, k, nil, "", "hang"), CAFile: p.ca, HMACFile: file}}})
	s.Publish(checkpoint(0))
	k.wait(t, 1)
	for until := time.Now().Add(5 * time.Second); s.Check() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(s.Check())
		}
	}
	s.Publish(checkpoint(1))
	s.Publish(checkpoint(2))
	if err := s.Check(); err != nil {
		t.Errorf("two behind: %v", err)
	}
	began := time.Now()
	for i := range 10_000 {
		s.Publish(checkpoint(3 + i))
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("publishing took %s", d)
	}
	if err := s.Check(); err == nil {
		t.Error("10,000 behind, and all is well")
	}
	if n := len(s.all[0].queue); n > maxQueue {
		t.Errorf("%d are kept", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	s.Close(ctx)
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("closing took %s", d)
	}
}

// listen is a syslog receiver; before says what it does with its first connections.
func listen(t *testing.T, ln net.Listener, k *kept, before ...func(net.Conn)) {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if len(before) > 0 {
				before[0](c)
				before = before[1:]
				c.Close()
				continue
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					n, err := r.ReadString(' ')
					if err != nil {
						return
					}
					size, err := strconv.Atoi(strings.TrimSpace(n))
					if err != nil || size > 8192 {
						t.Errorf("frame of %q", n)
						return
					}
					b := make([]byte, size)
					if _, err := io.ReadFull(r, b); err != nil {
						return
					}
					k.add(string(b))
				}
			}()
		}
	}()
}

var rfc5424 = regexp.MustCompile(`^<109>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z node-1 coffer-trustee \d+ checkpoint - (\{.*\})$`)

func TestSyslog(t *testing.T) {
	p := newPKI(t)
	cut := func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }
	for name, make := range map[string]func(t *testing.T, k *kept) Target{
		"tcp": func(t *testing.T, k *kept) Target {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			// Ends the connection at once; with a message unread.
			listen(t, ln, k, cut, func(c net.Conn) { c.Read(make([]byte, 8)); cut(c) })
			return Target{URL: "syslog+tcp://" + ln.Addr().String()}
		},
		"tls": func(t *testing.T, k *kept) Target {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{p.pair}, ClientCAs: p.pool, ClientAuth: tls.RequireAndVerifyClientCert})
			if err != nil {
				t.Fatal(err)
			}
			listen(t, ln, k)
			return Target{URL: "syslog+tls://" + ln.Addr().String(), CAFile: p.ca, CertFile: p.cert, KeyFile: p.key}
		},
		"unix stream": func(t *testing.T, k *kept) Target {
			path := filepath.Join(t.TempDir(), "s")
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			listen(t, ln, k)
			return Target{URL: "syslog+unix://" + path}
		},
		"unix datagram": func(t *testing.T, k *kept) Target {
			path := filepath.Join(t.TempDir(), "s")
			c, err := net.ListenPacket("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 16<<10)
				for {
					n, _, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					k.add(string(b[:n]))
				}
			}()
			return Target{URL: "syslog+unix://" + path}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := new(kept)
			target := make(t, k)
			target.Hostname = "node-1\n"
			s := newSet(t, Config{Targets: []Target{target}, Required: 1})
			for i := range 2 {
				s.Publish(checkpoint(i))
			}
			seen := map[auditlog.Signed]bool{}
			for _, m := range k.wait(t, 2) {
				f := rfc5424.FindStringSubmatch(m)
				if f == nil {
					t.Fatalf("no RFC 5424: %q", m)
				}
				var c auditlog.Signed
				if err := json.Unmarshal([]byte(f[1]), &c); err != nil {
					t.Fatal(err)
				}
				seen[c] = true
			}
			if !seen[checkpoint(0)] || !seen[checkpoint(1)] {
				t.Errorf("got %v", seen)
			}
			s.Close(t.Context())
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who does not prove to be the receiver gets nothing.
func TestForeignReceiver(t *testing.T) {
	p, other := newPKI(t), newPKI(t)
	file, _ := hmacKey(t)
	k, failures := new(kept), new(kept)
	s := newSet(t, Config{Targets: []Target{{URL: hook(t, p, k, nil), CAFile: other.ca, HMACFile: file}}, Failed: func() { failures.add("") }})
	s.Publish(checkpoint(0))
	failures.wait(t, 2)
	if len(k.all) > 0 {
		t.Errorf("a foreign receiver got %q", k.all)
	}
	if err := s.Check(); err != nil {
		t.Errorf("not required: %v", err)
	}
}

func TestTargetsAreRefused(t *testing.T) {
	file, _ := hmacKey(t)
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("too short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []Target{
		{URL: "http://h/"}, {URL: "https://h/"}, {URL: "https://u:p@h/", HMACFile: file}, {URL: "https:///x", HMACFile: file},
		{URL: "https://h/", HMACFile: short}, {URL: "https://h/", HMACFile: file + "x"}, {URL: "https://h/", CertFile: file},
		{URL: "syslog+tcp://h"}, {URL: "syslog+tcp://h:1", HMACFile: file}, {URL: "syslog+tcp://h:1", CAFile: file}, {URL: "syslog+unix://dev/log"},
		{URL: "syslog+tls://h:1", CAFile: file}, {URL: "udp://h:1"}, {URL: "\x00"},
	} {
		if _, err := New(Config{Targets: []Target{x}, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%+v is taken", x)
		}
	}
	if _, err := New(Config{Required: 1, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a required witness that is not there is taken")
	}
}
