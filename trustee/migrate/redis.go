package migrate

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stores of the existing services; each is a prefix of keys in Redis, and a table in
// PostgreSQL.
var stores = []string{storeSecrets, storePolicies, storeValues, storeKBS, storeSessions, storeProvisioner}

const redisPatience = 30 * time.Second // for one answer

// RedisServer is where a store is kept as keys of the form STORE:KEY.
type RedisServer struct {
	// URL is redis:// on this machine, or rediss:// (TLS), with a user name and the number of
	// the database if need be (rediss://user@host:6379/0), and without a password.
	URL string
	// Password is sent, with the URL's user name, if it is not empty.
	Password string
	// Authorities vouch for the server's certificate; nil: those of the machine.
	Authorities *x509.CertPool
}

// Redis is a source. Keys are listed step by step, so that the server goes on serving;
// what is written meanwhile may be missed.
func Redis(s RedisServer) (Source, error) {
	c, err := s.parse()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]Item, error) {
		if err := c.dial(ctx); err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
		defer c.conn.Close()
		defer context.AfterFunc(ctx, func() { c.conn.Close() })()
		items, err := c.items()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return items, err
	}, nil
}

type redisClient struct {
	addr, user, password string
	database             int
	tls                  *tls.Config // nil: none

	conn net.Conn
	r    *bufio.Reader
}

func (s *RedisServer) parse() (*redisClient, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, errors.New("redis: address is no URL") // which may hold a password
	}
	if _, there := u.User.Password(); there {
		return nil, errors.New("redis: the address holds a password, which others can read where it is: give it in a file (--from-password)")
	}
	c := &redisClient{user: u.User.Username(), password: s.Password}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	c.addr = net.JoinHostPort(u.Hostname(), port)
	if n := strings.Trim(u.Path, "/"); n != "" {
		if c.database, err = strconv.Atoi(n); err != nil || c.database < 0 {
			return nil, fmt.Errorf("redis: %.40q is no number of a database", n)
		}
	}
	switch ip := net.ParseIP(u.Hostname()); {
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("redis: address is not redis[s]://[user@]host[:port][/database]")
	case u.Scheme == "rediss":
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.Authorities, ServerName: u.Hostname()}
	case u.Scheme != "redis":
		return nil, fmt.Errorf("redis: scheme %.20q is neither redis nor rediss", u.Scheme)
	case u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()):
		return nil, fmt.Errorf("redis: the way to %.80s is not protected: rediss:// is needed, or a server on this machine", u.Hostname())
	}
	return c, nil
}

// dial connects, and names user and database.
func (c *redisClient) dial(ctx context.Context) error {
	d := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	if c.tls != nil {
		t := tls.Client(conn, c.tls)
		shake, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := t.HandshakeContext(shake); err != nil {
			conn.Close()
			return err
		}
		c.conn = t
	}
	c.r = bufio.NewReader(c.conn)
	var first [][]string
	switch {
	case c.user != "":
		first = append(first, []string{"AUTH", c.user, c.password})
	case c.password != "":
		first = append(first, []string{"AUTH", c.password})
	}
	if c.database != 0 {
		first = append(first, []string{"SELECT", strconv.Itoa(c.database)})
	}
	for _, args := range first {
		if _, err := c.call(args...); err != nil {
			c.conn.Close()
			return fmt.Errorf("%s: %w", args[0], err)
		}
	}
	return nil
}

// call sends one command and reads its answer.
func (c *redisClient) call(args ...string) (any, error) {
	var b []byte
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.conn.SetDeadline(time.Now().Add(redisPatience)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(b); err != nil {
		return nil, err
	}
	v, err := reply(c.r, maxFile+1)
	if err != nil {
		return nil, err
	}
	if no, ok := v.(redisError); ok {
		return nil, no
	}
	return v, nil
}

// text is call for a command that answers with a string.
func (c *redisClient) text(args ...string) ([]byte, error) {
	v, err := c.call(args...)
	if err != nil {
		return nil, err
	}
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("redis: %s is answered with no text", args[0])
	}
	return b, nil
}

func (c *redisClient) items() ([]Item, error) {
	var out []Item
	for _, store := range stores {
		keys, err := c.keys(store)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", store, err)
		}
		if len(out)+len(keys) > maxItems {
			return nil, fmt.Errorf("more than %d entries", maxItems)
		}
		total := 0
		for _, key := range keys {
			it, err := c.item(store, key)
			if err != nil {
				return nil, fmt.Errorf("reading %.80q of %s: %w", key, store, err)
			}
			if it == nil {
				continue
			}
			if total += len(it.data); total > maxTotal {
				return nil, fmt.Errorf("%s: more than %d bytes", store, maxTotal)
			}
			out = append(out, *it)
		}
	}
	return out, nil
}

// keys lists the keys of one store, each once. SCAN may give a key several times.
func (c *redisClient) keys(store string) ([]string, error) {
	seen := map[string]bool{}
	for cursor := "0"; ; {
		v, err := c.call("SCAN", cursor, "MATCH", store+":*", "COUNT", "500")
		if err != nil {
			return nil, err
		}
		page, ok := v.([]any)
		if !ok || len(page) != 2 {
			return nil, errors.New("redis: SCAN is not answered with two parts")
		}
		next, ok := page[0].([]byte)
		list, isList := page[1].([]any)
		if !ok || !isList {
			return nil, errors.New("redis: SCAN is not answered with a cursor and a list")
		}
		for _, k := range list {
			b, ok := k.([]byte)
			key, found := strings.CutPrefix(string(b), store+":")
			if !ok || !found {
				return nil, errors.New("redis: SCAN gives a key that was not asked for")
			}
			if seen[key] = true; len(seen) > maxItems {
				return nil, fmt.Errorf("more than %d entries", maxItems)
			}
		}
		if cursor = string(next); cursor == "0" {
			break
		}
	}
	var out []string
	for k := range seen {
		out = append(out, k)
	}
	slices.Sort(out)
	return out, nil
}

// item reads one entry; nil where it has gone since it was listed.
func (c *redisClient) item(store, key string) (*Item, error) {
	name := store + ":" + key
	it := &Item{Store: store, Key: key}
	kind, err := c.text("TYPE", name)
	if err != nil {
		return nil, err
	}
	switch string(kind) {
	case "none":
		return nil, nil
	case "string":
	default:
		it.refuse(fmt.Sprintf("not a string but a %.20q", kind))
		return it, nil
	}
	// No more than the bound is ever sent.
	if it.data, err = c.text("GETRANGE", name, "0", strconv.Itoa(maxFile)); err != nil {
		return nil, err
	}
	if len(it.data) > maxFile {
		clear(it.data)
		it.data = nil
		it.refuse(fmt.Sprintf("more than %d bytes", maxFile))
	}
	return it, nil
}
