package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// SimulatedNamespace is the trustee's namespace for simulated TEEs.
const SimulatedNamespace = "sim"

const (
	leaseSocket       = "lease.sock"
	trusteeStartLimit = 20 * time.Second
)

// TrusteeOptions says which trustee to use; the zero value is the local one.
type TrusteeOptions struct {
	URL      string // "": the local trustee, started if need be
	CAFile   string // PEM; with URL
	AdminKey string // file; with URL
	// AdminToken is a file with a bearer token, in the place of AdminKey.
	AdminToken string
}

// Trustee is a trustee that a command may use until Release.
type Trustee struct {
	Client  *trusteeclient.Client
	URL     string
	CAPEM   string
	Started bool // this command started it
	release []io.Closer
}

// Release lets the trustee go: a local one that a command has started ends
// when the last command that uses it has.
func (t *Trustee) Release() {
	t.Client.Close()
	for _, c := range t.release {
		_ = c.Close()
	}
}

// OpenTrustee connects to the named trustee, or to the local one. A local
// trustee that does not run is started in the background; it lives as long as
// some command holds its lease, and all of them share it.
func OpenTrustee(ctx context.Context, o TrusteeOptions, progress func(string)) (*Trustee, error) {
	if o.URL != "" {
		return dialNamed(ctx, o)
	}
	dir, err := trusteeclient.StateDir()
	if err != nil {
		return nil, err
	}
	if n := len(filepath.Join(dir, leaseSocket)); n > maxSocket {
		return nil, &InputError{fmt.Errorf("COFFER_STATE is too long: the path of a Unix socket in it has %d bytes, at most %d: %s", n, maxSocket, dir)}
	}
	if o.AdminKey != "" || o.AdminToken != "" {
		return dialLocal(ctx, dir, &o)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the trustee's state directory: %w", err)
	}
	// One command at a time decides whether the trustee has to be started.
	lock, err := os.OpenFile(filepath.Join(dir, "start.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the trustee's state directory: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking the trustee's state directory: %w", err)
	}
	if t, err := joinLocal(ctx, dir); err == nil {
		return t, nil
	}
	progress("starting the local trustee (it holds keys and secrets, and releases them only to what it has attested)")
	if err := startTrustee(ctx, dir); err != nil {
		return nil, err
	}
	t, err := joinLocal(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("connecting to the trustee just started: %w", err)
	}
	t.Started = true
	return t, nil
}

// joinLocal uses the trustee that runs on dir: started by a command (then its
// lease is taken) or by hand.
func joinLocal(ctx context.Context, dir string) (*Trustee, error) {
	cfg, err := trusteeclient.LoadConfig(dir)
	if err != nil {
		return nil, err
	}
	t := &Trustee{URL: cfg.URL, CAPEM: cfg.CAPEM}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, leaseSocket))
	switch {
	case err == nil:
		// The server greets: a socket without it belongs to one that is ending.
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("taking the trustee's lease: %w", err)
		}
		t.release = append(t.release, conn)
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("taking the trustee's lease: %w", err)
	}
	if t.Client, err = trusteeclient.DialConfig(ctx, cfg); err != nil {
		for _, c := range t.release {
			_ = c.Close()
		}
		return nil, err
	}
	return t, nil
}

// dialLocal uses the trustee that runs on dir, as somebody else than its first
// administrator.
func dialLocal(ctx context.Context, dir string, o *TrusteeOptions) (*Trustee, error) {
	if o.AdminKey != "" && o.AdminToken != "" {
		return nil, &InputError{errors.New("--admin-key and --admin-token are two ways to say the same")}
	}
	cfg, err := trusteeclient.LoadConfig(dir)
	if err != nil {
		return nil, &InputError{fmt.Errorf("no local trustee has run here: name one with --trustee: %w", err)}
	}
	o.URL = cfg.URL
	c, err := dial(ctx, o, []byte(cfg.CAPEM))
	if err != nil {
		return nil, err
	}
	return &Trustee{Client: c, URL: cfg.URL, CAPEM: cfg.CAPEM}, nil
}

// startTrustee starts coffer-trustee serve in a session of its own and waits
// until it serves.
func startTrustee(ctx context.Context, dir string) error {
	bin, err := Binary("coffer-trustee")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "trustee.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the trustee's log: %w", err)
	}
	defer log.Close()
	// The address stays the same as long as it can: sealed pods name it.
	listen := "127.0.0.1:0"
	if cfg, err := trusteeclient.LoadConfig(dir); err == nil {
		if u, err := url.Parse(cfg.URL); err == nil && free(u.Host) {
			listen = u.Host
		}
	}
	cmd := exec.Command(bin, "serve", "--state", dir, "--listen", listen,
		"--simulated-namespace", SimulatedNamespace, "--lease-socket", filepath.Join(dir, leaseSocket), "--output", "json")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting coffer-trustee: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	line := make(chan error, 1)
	go func() {
		var c trusteeapi.ClientConfig
		b, err := bufio.NewReader(out).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		line <- err
	}()
	select {
	case err = <-line:
	case <-time.After(trusteeStartLimit):
		err = fmt.Errorf("it was not ready within %s", trusteeStartLimit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("starting coffer-trustee: %w (its log: %s)", err, log.Name())
	}
	return nil
}

// free tells whether a TCP address can be listened on.
func free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// dialNamed connects to a trustee that somebody runs.
func dialNamed(ctx context.Context, o TrusteeOptions) (*Trustee, error) {
	if o.CAFile == "" || (o.AdminKey == "") == (o.AdminToken == "") {
		return nil, &InputError{errors.New("--trustee needs --trustee-ca and one of --admin-key and --admin-token: coffer trusts no CA by default, and registering a pod takes a credential")}
	}
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, &InputError{fmt.Errorf("--trustee-ca: %w", err)}
	}
	c, err := dial(ctx, &o, ca)
	if err != nil {
		return nil, err
	}
	return &Trustee{Client: c, URL: o.URL, CAPEM: string(ca)}, nil
}

func dial(ctx context.Context, o *TrusteeOptions, ca []byte) (*trusteeclient.Client, error) {
	if o.AdminToken != "" {
		token, err := trusteeclient.LoadBearer(o.AdminToken)
		if err != nil {
			return nil, &InputError{fmt.Errorf("--admin-token: %w", err)}
		}
		return trusteeclient.DialBearer(ctx, o.URL, ca, token)
	}
	key, err := trusteeclient.LoadAdminKey(o.AdminKey)
	if err != nil {
		return nil, &InputError{fmt.Errorf("--admin-key: %w", err)}
	}
	return trusteeclient.Dial(ctx, o.URL, ca, key)
}
