package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
)

// StallError says that a registry sends a blob too slowly or not at all.
type StallError struct {
	Waited time.Duration
	Got    int64 // of the blob so far
	Size   int64
}

func (e *StallError) Error() string {
	return fmt.Sprintf("sent less than %d KiB in %v: stopped after %d of %d bytes", stallBytes>>10, e.Waited, e.Got, e.Size)
}

// stallBytes must arrive within Timeouts.Stall.
const stallBytes = 64 << 10

// maxResumes bounds how often one blob is taken up again in all.
const maxResumes = 50

// Blob streams a blob. It reads on at the same or another place when a transfer
// breaks; Read gives io.EOF only after size and digest have been found right. A
// failed open shows at the first Read.
func (c *Client) Blob(ctx context.Context, ref reference.Reference, d manifest.Descriptor, what string) (io.ReadCloser, error) {
	srcs, err := c.sources(ref)
	if err != nil {
		return nil, err
	}
	return &blob{c: c, ctx: ctx, ref: ref, srcs: srcs, d: d, what: what, hash: d.Digest.NewHash()}, nil
}

type blob struct {
	c    *Client
	ctx  context.Context
	ref  reference.Reference
	srcs []Source
	d    manifest.Descriptor
	what string
	hash hash.Hash
	n    int64 // bytes given so far
	err  error

	body    *stallReader
	tries   int   // at srcs[0], since the last progress
	since   int64 // value of n at the last progress
	resumes int
	errs    []error // of places given up
}

// Read gives the next bytes.
func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.n == b.d.Size {
			b.err = b.finish()
			break
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				b.failed(err)
				continue
			}
		}
		if left := b.d.Size - b.n; int64(len(p)) > left {
			p = p[:left]
		}
		n, err := b.body.Read(p)
		if n > 0 {
			b.hash.Write(p[:n])
			b.n += int64(n)
			if b.n-b.since >= stallBytes { // less is no progress, or a trickle would never end
				b.since, b.tries = b.n, 0
			}
		}
		if err != nil {
			_ = b.body.Close()
			b.body = nil
			if b.n < b.d.Size {
				var stall *StallError
				if !errors.As(err, &stall) {
					err = fmt.Errorf("connection broke after %d of %d bytes: %w", b.n, b.d.Size, err)
				}
				b.failed(err)
			}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// finish judges a blob that has all its bytes.
func (b *blob) finish() error {
	if b.body != nil { // nothing may follow
		var one [1]byte
		n, _ := b.body.Read(one[:])
		_ = b.body.Close()
		b.body = nil
		if n > 0 {
			return b.final(fmt.Errorf("blob is longer than the %d bytes its manifest declares", b.d.Size))
		}
	}
	if err := b.d.Digest.Check(b.what+" "+b.d.Digest.String(), b.hash); err != nil {
		return b.final(err)
	}
	return io.EOF
}

// failed counts a failure and decides what is next: the same place, the next, or
// the end.
func (b *blob) failed(err error) {
	b.tries++
	b.resumes++
	if b.ctx.Err() != nil {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		b.err = b.final(err)
		return
	}
	if b.resumes <= maxResumes && b.tries < b.c.times.Attempts && transient(err) {
		if sleep(b.ctx, max(b.c.times.Backoff<<(b.tries-1), retryAfter(err))) == nil {
			return
		}
	}
	if len(b.srcs) > 1 && b.resumes <= maxResumes {
		b.errs = append(b.errs, b.sourceError(err))
		b.srcs, b.tries, b.since = b.srcs[1:], 0, b.n
		return
	}
	b.err = b.final(err)
}

func (b *blob) sourceError(err error) error {
	return &SourceError{Host: b.srcs[0].Ref.Domain, What: b.what + " " + b.d.Digest.String(), Tries: b.tries, Err: err}
}

func (b *blob) final(err error) error {
	return fmt.Errorf("pulling %s: %w", b.ref, errors.Join(append(b.errs, b.sourceError(err))...))
}

// open asks the current place for the bytes that are missing.
func (b *blob) open() error {
	ctx, cancel := context.WithCancel(b.ctx)
	ranges := ""
	if b.n > 0 {
		ranges = fmt.Sprintf("bytes=%d-%d", b.n, b.d.Size-1)
	}
	resp, err := b.c.get(ctx, b.srcs[0], "blobs", string(b.d.Digest), nil, ranges) //nolint:bodyclose // the stallReader below closes it
	if err != nil {
		cancel()
		return err
	}
	r := &stallReader{body: resp.Body, cancel: cancel, limit: b.c.times.Stall, got: b.n, size: b.d.Size}
	if err := b.position(resp, r); err != nil {
		_ = r.Close()
		return err
	}
	b.body = r
	return nil
}

// position makes r start at byte b.n.
func (b *blob) position(resp *http.Response, r *stallReader) error {
	if resp.StatusCode == http.StatusPartialContent {
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != b.n {
			return fmt.Errorf("answers a request for bytes from %d with %.80q", b.n, resp.Header.Get("Content-Range"))
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.d.Size {
		return fmt.Errorf("blob has %d bytes, its manifest declares %d", resp.ContentLength, b.d.Size)
	}
	r.got = 0
	if _, err := io.CopyN(io.Discard, r, b.n); err != nil { // it cannot resume: skip what we have
		return fmt.Errorf("resuming after %d bytes: %w", b.n, err)
	}
	return nil
}

// Close ends the transfer.
func (b *blob) Close() error {
	if b.err == nil {
		b.err = errors.New("blob is closed")
	}
	if b.body != nil {
		_ = b.body.Close()
		b.body = nil
	}
	return nil
}

// stallReader cancels a transfer that makes no progress. Only the time inside
// Read counts: a slow reader is not the registry's fault.
type stallReader struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	limit  time.Duration
	got    int64
	size   int64

	waited time.Duration // since the window began
	window int64         // bytes in this window
}

func (s *stallReader) Read(p []byte) (int, error) {
	start := time.Now()
	t := time.AfterFunc(s.limit-s.waited, s.cancel)
	n, err := s.body.Read(p)
	fired := !t.Stop()
	s.got += int64(n)
	s.window += int64(n)
	if s.window >= stallBytes {
		s.window, s.waited = 0, 0
	} else {
		s.waited = min(s.waited+time.Since(start), s.limit)
	}
	if fired && err != nil && err != io.EOF {
		err = &StallError{Waited: s.limit, Got: s.got, Size: s.size}
	}
	return n, err
}

func (s *stallReader) Close() error {
	s.cancel()
	return s.body.Close()
}
