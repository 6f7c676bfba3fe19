package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// limitFiles lowers how many files this process may have open; "" leaves it.
func limitFiles(text string) error {
	if text == "" {
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n})
}

// The ways to be slow.
const (
	slowHandshake = iota
	slowHeader
	slowBody
	slowIdle
	slowWays
)

// mixed has every way, and more of those that cost this machine few handshakes: the
// server ends a slow header after five seconds, and the client comes again.
var mixed = []int{
	slowHandshake, slowIdle, slowHandshake, slowBody, slowHandshake, slowIdle, slowHandshake, slowHeader,
	slowHandshake, slowIdle, slowHandshake, slowBody, slowHandshake, slowIdle, slowHandshake, slowHandshake,
}

// slowClients come from many addresses, keep a connection each for as long as they can,
// and come again when they lose it.
type slowClients struct {
	addr string
	dial chan struct{} // so many handshakes at once
	way  int           // that all of them take; below 0: mixed
	up   [slowWays]atomic.Int64
	wg   sync.WaitGroup
}

func (s *slowClients) start(ctx context.Context, n int) {
	for i := range n {
		s.wg.Go(func() {
			way := s.way
			if way < 0 {
				way = mixed[i%len(mixed)]
			}
			from := net.IPv4(127, 0, 1, byte(1+i%40))
			for ctx.Err() == nil {
				s.once(ctx, way, from)
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
}

// once is the life of one connection.
func (s *slowClients) once(ctx context.Context, way int, from net.IP) {
	select {
	case s.dial <- struct{}{}:
	case <-ctx.Done():
		return
	}
	c, err := s.open(ctx, way, from)
	<-s.dial
	if err != nil {
		return
	}
	defer c.Close()
	s.up[way].Add(1)
	defer s.up[way].Add(-1)
	go func() {
		// A byte now and then, where that is slower than nothing.
		for drip := []byte("x"); way == slowHeader || way == slowBody; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
			}
			if _, err := c.Write(drip); err != nil {
				return
			}
		}
	}()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	io.Copy(io.Discard, c) // until the server has enough
}

func (s *slowClients) open(ctx context.Context, way int, from net.IP) (net.Conn, error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil || way == slowHandshake {
		return c, err
	}
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}})
	begin := map[int]string{
		slowHeader: "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		slowBody:   "POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n{",
		slowIdle:   "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	if err = t.HandshakeContext(ctx); err == nil {
		_, err = t.Write([]byte(begin[way]))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

func (s *slowClients) connected() (n int64) {
	for i := range s.up {
		n += s.up[i].Load()
	}
	return n
}

// 10,000 slow clients of every kind, from 40 addresses, take all places that there are, and more wait for one:
// honest ones go on, and one whose request is being answered for a long time is not
// taken for slow.
func TestTenThousandSlowClients(t *testing.T) {
	files, err := openFiles()
	if err != nil {
		t.Fatal(err)
	}
	n := min(maxConns*11/10, int(files)-500)
	if n < maxConns {
		t.Logf("%d files may be open here: %d slow clients", files, n)
	}
	dir, places := t.TempDir(), n*10/11
	_, cfg := child(t, dir, fmt.Sprint(filesEnv, "=", spareFiles+places))
	a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
	a.url = cfg.URL
	a.takeFakes("default")
	doc := document(t, "pod a")
	a.put("default", secretName, "hunter2")
	a.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})

	waiting := newRCAR(t, cfg.CAPEM, cfg.URL)
	waiting.handshake(doc)
	heard, asked := make(chan error, 1), time.Now()
	go func() {
		err := longPoll(waiting, secretName+"?after=1&wait=30")
		if errors.Is(err, errNothingNewer) && time.Since(asked) >= 30*time.Second {
			err = errWaitOver
		}
		heard <- err
	}()

	ctx, stop := context.WithCancel(t.Context())
	slow := &slowClients{addr: strings.TrimPrefix(cfg.URL, "https://"), dial: make(chan struct{}, 32), way: -1}
	defer slow.wg.Wait()
	defer stop()
	began := time.Now()
	slow.start(ctx, n)
	for slow.connected() < int64(places)*98/100 { // some are always between two connections
		if time.Since(began) > 30*time.Second { // some seconds, where little else runs
			if slow.connected() < int64(places)/4 {
				t.Fatalf("only %d of %d slow clients are connected", slow.connected(), n)
			}
			t.Logf("this machine is too busy for more than %d slow clients", slow.connected())
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d slow clients after %s", slow.connected(), time.Since(began).Round(time.Millisecond))
	var longest time.Duration
	for range 30 {
		at := time.Now()
		c := newRCAR(t, cfg.CAPEM, cfg.URL)
		c.handshake(doc)
		if r := c.get(secretName); r.status != 200 || string(c.open(r.body)) != "hunter2" {
			t.Fatalf("%d %s", r.status, r.body)
		}
		c.http.CloseIdleConnections()
		longest = max(longest, time.Since(at))
	}
	if longest > 10*time.Second { // a fraction of a second, where nothing else runs
		t.Errorf("an honest client took %s", longest)
	}
	var at [slowWays]int64
	for i := range at {
		at[i] = slow.up[i].Load()
	}
	t.Logf("the slowest honest client took %s, beside slow handshakes %d, headers %d, bodies %d, idle %d", longest.Round(time.Millisecond), at[slowHandshake], at[slowHeader], at[slowBody], at[slowIdle])
	select {
	case err := <-heard:
		if !errors.Is(err, errWaitOver) { // all this may take a busy machine longer
			t.Fatalf("who waits for a new version was let go early: %v", err)
		}
		heard <- err
	default:
	}
	// Records still reach the disk: files are kept for that.
	a.http.CloseIdleConnections()
	a.put("default", secretName, "hunter3")
	if err := <-heard; err != nil && !errors.Is(err, errWaitOver) {
		t.Errorf("who waits for a new version: %v", err)
	}
}

// A server that may open few files has few places: slow clients of each kind, twice as
// many, do not keep an honest one waiting until their time is over.
func TestSlowClientsOfASmallServer(t *testing.T) {
	for way, name := range []string{"handshake", "header", "body", "idle"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, cfg := child(t, t.TempDir(), fmt.Sprint(filesEnv, "=", spareFiles+minConns))
			a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
			a.url = cfg.URL
			a.takeFakes("default")
			doc := document(t, "pod a")
			ctx, stop := context.WithCancel(t.Context())
			slow := &slowClients{addr: strings.TrimPrefix(cfg.URL, "https://"), dial: make(chan struct{}, 200), way: way}
			defer slow.wg.Wait()
			defer stop()
			slow.start(ctx, 2*minConns)
			await(t, func() bool { return slow.connected() >= minConns-4 })
			for range 5 {
				at := time.Now()
				c := newRCAR(t, cfg.CAPEM, cfg.URL)
				c.handshake(doc)
				c.http.CloseIdleConnections()
				if d := time.Since(at); d > 12*time.Second { // about one; without shedding a slow body has 20, an idle peer 60
					t.Errorf("an honest client took %s", d)
				}
			}
			a.http.CloseIdleConnections()
			a.put("default", secretName, "hunter2") // files are kept for what must reach the disk
		})
	}
}

var (
	errNothingNewer = errors.New("304: there is no newer version")
	errWaitOver     = errors.New("the time to wait for a new version is over")
)

// longPoll asks for a resource beside the test.
func longPoll(c *rcar, path string) error {
	resp, err := c.http.Get(c.base + "/resource/" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return errNothingNewer
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d, %w", resp.StatusCode, err)
	}
	return nil
}

// With few files a server takes fewer connections and says so; with too few it does not
// start.
func TestConnectionsFollowTheLimitOfFiles(t *testing.T) {
	for _, tc := range []struct {
		files, listeners uint64
		want             int
	}{{1 << 20, 1, maxConns}, {1024, 1, 768}, {20_000, 3, 6581}, {320, 1, 64}, {319, 1, 0}, {320, 2, 0}, {0, 1, 0}} {
		got, err := connections(tc.files, spareFiles, tc.listeners)
		if got != tc.want || errors.Is(err, errFewFiles) != (tc.want == 0) {
			t.Errorf("%d files, %d listeners: %d, %v", tc.files, tc.listeners, got, err)
		}
	}
	var log bytes.Buffer
	w := newWorld(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	w.stop()
	if !strings.Contains(log.String(), "connections are bounded") {
		t.Errorf("nothing is said at the start: %s", log.String())
	}
}

// A request that is being answered keeps its place; what waits for a peer goes in the
// order in which it began, however often the peer sends a byte.
func TestAttentionOrder(t *testing.T) {
	now := time.Now()
	a := attention{now: func() time.Time { return now }, moved: make(chan struct{}, 1)}
	add := func() *limitedConn {
		c := &limitedConn{attention: &a}
		a.update(c, func(*limitedConn) {})
		return c
	}
	first, second, third := add(), add(), add()
	now = now.Add(patience / 4)
	if got, left := a.longest(); got != nil || left != patience*3/4 {
		t.Errorf("one that has only begun goes, or it has another %s", left)
	}
	step := func(what string, want *limitedConn) {
		t.Helper()
		now = now.Add(patience)
		if got, _ := a.longest(); got != want {
			t.Errorf("%s: another one goes", what)
		}
	}
	step("as they came", first)
	a.update(first, func(c *limitedConn) { c.spot.working++ })
	step("the first is being served", second)
	body := &attendedBody{ReadCloser: io.NopCloser(strings.NewReader("ab")), conn: second}
	a.update(second, func(c *limitedConn) { c.spot.working++ })
	step("the second, too", third)
	body.Read(make([]byte, 1))
	a.begin(third)
	step("the second sends its body since before", second)
	body.Read(make([]byte, 1))
	step("a byte of it changes nothing", second)
	body.Read(make([]byte, 1))
	step("its body has ended", third)
	body.end()
	a.update(third, func(c *limitedConn) { c.spot.gone = true })
	step("the third has gone", nil)
	a.update(first, func(c *limitedConn) { c.spot.working-- })
	step("the first was answered", first)
	a.update(second, func(c *limitedConn) { c.spot.working-- })
	a.begin(first)
	step("the first sends another request", second)
	a.update(second, func(c *limitedConn) { c.spot.gone = true })
	a.begin(first)
	if got, left := a.longest(); got != nil || left != patience {
		t.Errorf("one whose request has only begun goes, or it has another %s", left)
	}
}
