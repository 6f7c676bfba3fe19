package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
)

// Resolved is an image's documents, verified against each other.
type Resolved struct {
	IndexDigest    digest.Digest // "" if the reference was a manifest's
	ManifestDigest digest.Digest
	ManifestBytes  []byte
	Manifest       *manifest.Manifest
	ConfigBytes    []byte
	Config         *manifest.Config
}

// Resolve finds ref's manifest for a platform and fetches its configuration.
func (c *Client) Resolve(ctx context.Context, ref reference.Reference, want manifest.Platform) (*Resolved, error) {
	b, ctype, err := c.Document(ctx, ref)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(b, ctype)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	r := &Resolved{ManifestDigest: ref.Digest, ManifestBytes: b}
	if r.ManifestDigest == "" {
		r.ManifestDigest = digest.FromBytes(b)
	}
	if doc.Index != nil {
		d, err := doc.Index.Choose(want)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		r.IndexDigest, r.ManifestDigest = r.ManifestDigest, d.Digest
		b, ctype, err := c.Document(ctx, ref.WithDigest(d.Digest))
		if err != nil {
			return nil, err
		}
		if doc, err = manifest.Parse(b, ctype); err != nil {
			return nil, fmt.Errorf("image %s: manifest %s: %w", ref, d.Digest, err)
		}
		if doc.Manifest == nil {
			return nil, fmt.Errorf("image %s: index lists %s as a manifest, but it is an index", ref, d.Digest)
		}
		r.ManifestBytes = b
	}
	r.Manifest = doc.Manifest
	if r.ConfigBytes, err = c.Small(ctx, ref, r.Manifest.Config, "image config"); err != nil {
		return nil, err
	}
	if r.Config, err = manifest.ParseConfig(r.ConfigBytes, r.Manifest); err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	if !r.Config.RunsOn(want) {
		return nil, fmt.Errorf("image %s is for %s, not for %s", ref, r.Config.Platform(), want)
	}
	return r, nil
}

// Document fetches what ref names, an index or a manifest, and its media type.
// A reference with a digest gives exactly the bytes of that digest.
func (c *Client) Document(ctx context.Context, ref reference.Reference) (b []byte, contentType string, err error) {
	what := "manifest " + ref.Version()
	err = c.each(ctx, ref, what, func(ctx context.Context, src Source) error {
		var err error
		b, contentType, err = c.small(ctx, src, "manifests", src.Ref.Version(), manifest.Accept, manifest.MaxSize)
		if err == nil && ref.Digest != "" {
			err = ref.Digest.CheckBytes(what, b)
		}
		return err
	})
	return b, contentType, err
}

// Small fetches a blob of at most manifest.MaxSize bytes into memory, verified.
func (c *Client) Small(ctx context.Context, ref reference.Reference, d manifest.Descriptor, what string) (b []byte, err error) {
	if d.Size > manifest.MaxSize {
		return nil, fmt.Errorf("%s of %d bytes: more than %d", what, d.Size, manifest.MaxSize)
	}
	what += " " + d.Digest.String()
	err = c.each(ctx, ref, what, func(ctx context.Context, src Source) error {
		var err error
		if b, _, err = c.small(ctx, src, "blobs", string(d.Digest), nil, d.Size); err != nil {
			return err
		}
		if int64(len(b)) != d.Size {
			return fmt.Errorf("%s has %d bytes, expected %d", what, len(b), d.Size)
		}
		return d.Digest.CheckBytes(what, b)
	})
	return b, err
}

func (c *Client) small(ctx context.Context, src Source, kind, id string, accept []string, limit int64) ([]byte, string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.times.Small)
	defer cancel()
	resp, err := c.get(ctx, src, kind, id, accept, "")
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, "", c.hint(err)
	}
	if int64(len(b)) > limit {
		return nil, "", fmt.Errorf("answer is longer than %d bytes", limit)
	}
	return b, resp.Header.Get("Content-Type"), nil
}

// sources gives the places to ask, without those to skip.
func (c *Client) sources(ref reference.Reference) ([]Source, error) {
	s, err := c.conf.Sources(ref)
	if err != nil {
		return nil, err
	}
	if len(c.skip) > 0 {
		s = slices.DeleteFunc(s, func(s Source) bool { return c.skip[s.Ref.Domain] })
		if len(s) == 0 {
			return nil, fmt.Errorf("image %s: no place left to ask", ref)
		}
	}
	return s, nil
}

// each tries fn on every place in turn, several times where that can help, until
// one succeeds.
func (c *Client) each(ctx context.Context, ref reference.Reference, what string, fn func(context.Context, Source) error) error {
	srcs, err := c.sources(ref)
	if err != nil {
		return err
	}
	var errs []error
	for _, src := range srcs {
		wait := c.times.Backoff
		for try := 1; ; try++ {
			err := fn(ctx, src)
			if err == nil {
				return nil
			}
			if try < c.times.Attempts && ctx.Err() == nil && transient(err) {
				if sleep(ctx, max(wait, retryAfter(err))) == nil {
					wait *= 2
					continue
				}
			}
			errs = append(errs, &SourceError{Host: src.Ref.Domain, What: src.Ref.Path + " " + what, Tries: try, Err: err})
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("pulling %s: %w", ref, errors.Join(errs...))
}

// SourceError says which place failed at what.
type SourceError struct {
	Host  string
	What  string
	Tries int
	Err   error
}

func (e *SourceError) Error() string {
	s := fmt.Sprintf("registry %s: %s: %v", e.Host, e.What, e.Err)
	if e.Tries > 1 {
		s += fmt.Sprintf(" (after %d tries)", e.Tries)
	}
	return s
}

func (e *SourceError) Unwrap() error { return e.Err }

// transient says whether the same place may answer better next time.
func transient(err error) bool {
	var se *StatusError
	if errors.As(err, &se) {
		switch se.Status {
		case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
			return true
		}
		return false
	}
	var ae *authError
	var mm *digest.MismatchError
	var cert *tls.CertificateVerificationError
	if errors.As(err, &ae) || errors.As(err, &mm) || errors.As(err, &cert) || errors.Is(err, context.Canceled) {
		return false
	}
	return true // the network
}

func retryAfter(err error) time.Duration {
	var se *StatusError
	if errors.As(err, &se) {
		return se.after
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
