// Package configfs gets reports through the kernel's configfs-tsm interface
// (Documentation/ABI/testing/configfs-tsm-report): one folder for each request,
// made and removed again.
//
// Invariants: nothing is read without bound; a report is handed out only if the
// kernel says that no other request was written in between; the folder is
// removed on every way out; a provider other than the wanted one is never asked.
//
// Trust zone: guest.
package configfs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/tee/attest"
)

// Dir is where the kernel has the interface, with configfs mounted.
const Dir = "/sys/kernel/config/tsm/report"

// Providers that the kernel knows.
const (
	SNP = "sev_guest"
	TDX = "tdx_guest"
	CCA = "arm_cca_guest"
)

// InblobSize is the most that a request carries, in bytes.
const InblobSize = 64

// Bounds of what is read.
const (
	maxOutblob = 256 << 10
	maxAuxblob = 512 << 10
	maxLine    = 64
)

// tree is the folder of reports: the kernel's, or a fake that behaves like it.
type tree interface {
	mkdir(name string) error
	rmdir(name string) error
	// read gives an attribute; one that is longer than limit is an error.
	read(path string, limit int) ([]byte, error)
	write(path string, b []byte) error
}

// Reporter is an attest.Reporter. It is safe for concurrent use.
type Reporter struct {
	provider string
	tree     tree
	wait     time.Duration
}

var _ attest.Reporter = (*Reporter)(nil)

// Open finds out whether the kernel's provider is the wanted one;
// attest.ErrNotPresent: there is none, or another.
func Open(dir, provider string) (*Reporter, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("opening configfs-tsm: %w", err)
	}
	r, err := open(kernel{root}, provider)
	if err != nil {
		root.Close()
	}
	return r, err
}

func open(t tree, provider string) (*Reporter, error) {
	r := &Reporter{provider: provider, tree: t, wait: 100 * time.Millisecond}
	return r, r.entry(func(string) error { return nil })
}

// Provider implements attest.Reporter.
func (r *Reporter) Provider() string { return r.provider }

// Report implements attest.Reporter. auxblob is nil where the provider has none.
// A busy provider is asked again a few times.
func (r *Reporter) Report(ctx context.Context, inblob []byte) (outblob, auxblob []byte, err error) {
	if len(inblob) > InblobSize {
		return nil, nil, fmt.Errorf("configfs-tsm: %d bytes of report data, at most %d", len(inblob), InblobSize)
	}
	for try := 1; ; try++ {
		err = r.entry(func(dir string) error {
			outblob, auxblob, err = r.request(dir, inblob)
			return err
		})
		if err == nil {
			return outblob, auxblob, nil
		}
		if try == 5 || !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EAGAIN) {
			return nil, nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(time.Duration(try) * r.wait):
		}
	}
}

// entry makes a folder of the right provider, runs f and removes the folder.
func (r *Reporter) entry(f func(dir string) error) (err error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	dir := "coffer-" + hex.EncodeToString(id[:])
	if err := r.tree.mkdir(dir); err != nil {
		if errors.Is(err, syscall.ENXIO) { // no provider has registered
			return fmt.Errorf("configfs-tsm: %w", attest.ErrNotPresent)
		}
		return fmt.Errorf("configfs-tsm: %w", err)
	}
	defer func() {
		if e := r.tree.rmdir(dir); e != nil && err == nil {
			err = fmt.Errorf("configfs-tsm: %w", e)
		}
	}()
	p, err := r.tree.read(dir+"/provider", maxLine)
	if err != nil {
		return fmt.Errorf("configfs-tsm: reading provider: %w", err)
	}
	if got := strings.TrimSuffix(string(p), "\n"); got != r.provider {
		return fmt.Errorf("configfs-tsm: provider %q, not %q: %w", got, r.provider, attest.ErrNotPresent)
	}
	return f(dir)
}

// request writes the report data and reads the report. The generation counts
// what was written to this folder: exactly one thing, before and after.
func (r *Reporter) request(dir string, inblob []byte) (out, aux []byte, err error) {
	before, err := r.generation(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := r.tree.write(dir+"/inblob", inblob); err != nil {
		return nil, nil, fmt.Errorf("configfs-tsm: writing inblob: %w", err)
	}
	if out, err = r.tree.read(dir+"/outblob", maxOutblob); err != nil {
		return nil, nil, fmt.Errorf("configfs-tsm: reading outblob: %w", err)
	}
	if len(out) == 0 {
		return nil, nil, errors.New("configfs-tsm: empty outblob")
	}
	// A provider without an auxiliary blob has no such attribute, or says so.
	aux, err = r.tree.read(dir+"/auxblob", maxAuxblob)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, nil, fmt.Errorf("configfs-tsm: reading auxblob: %w", err)
	}
	if len(aux) == 0 {
		aux = nil
	}
	after, err := r.generation(dir)
	if err != nil {
		return nil, nil, err
	}
	if after != before+1 {
		return nil, nil, fmt.Errorf("configfs-tsm: generation went from %d to %d: somebody else wrote to the request", before, after)
	}
	return out, aux, nil
}

func (r *Reporter) generation(dir string) (uint64, error) {
	b, err := r.tree.read(dir+"/generation", maxLine)
	if err != nil {
		return 0, fmt.Errorf("configfs-tsm: reading generation: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("configfs-tsm: generation: %w", err)
	}
	return n, nil
}

// kernel is the real folder.
type kernel struct{ root *os.Root }

func (k kernel) mkdir(name string) error { return k.root.Mkdir(name, 0o700) }
func (k kernel) rmdir(name string) error { return k.root.Remove(name) }

func (k kernel) read(path string, limit int) ([]byte, error) {
	f, err := k.root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	return b, err
}

// write writes in one call, as attributes want it.
func (k kernel) write(path string, b []byte) error {
	f, err := k.root.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e // a binary attribute takes effect when it is closed
	}
	return err
}
