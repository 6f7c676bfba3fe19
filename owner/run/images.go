package run

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/owner/spec"
)

// ImageOptions says where images come from.
type ImageOptions struct {
	RegistriesFile string            // containers-registries.conf(5), version 2; "": none
	CAFiles        []string          // PEM of private registries' CAs
	AuthFile       string            // containers-auth.json(5) for resolving here
	GuestAuthURI   string            // kbs:/// URI of an auth.json for the guest
	Local          map[string]string // pod's image name -> oci:DIR, oci-archive:FILE, docker-archive:FILE
}

// ImageError says that an image cannot be had.
type ImageError struct {
	Image string // as in the pod; "": Err names it
	Err   error
}

func (e *ImageError) Error() string {
	if e.Image == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("image %s: %v", e.Image, e.Err)
}

// Unwrap gives the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// sources is the resolved form of ImageOptions.
type sources struct {
	conf  registry.Conf
	roots []string // PEM
	auth  []byte
	opts  ImageOptions
}

func loadSources(o ImageOptions) (*sources, error) {
	s := &sources{opts: o}
	if o.RegistriesFile != "" {
		md, err := toml.DecodeFile(o.RegistriesFile, &s.conf)
		if err != nil {
			return nil, fmt.Errorf("--registries %s: %w", o.RegistriesFile, err)
		}
		if u := md.Undecoded(); len(u) > 0 {
			return nil, fmt.Errorf("--registries %s: unknown key %s", o.RegistriesFile, u[0])
		}
		if err := s.conf.Check(); err != nil {
			return nil, fmt.Errorf("--registries %s: %w", o.RegistriesFile, err)
		}
	}
	for _, f := range o.CAFiles {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("--registry-ca: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--registry-ca %s: no certificate in PEM", f)
		}
		s.roots = append(s.roots, string(b))
	}
	if o.AuthFile != "" {
		b, err := os.ReadFile(o.AuthFile)
		if err != nil {
			return nil, fmt.Errorf("--registry-auth-file: %w", err)
		}
		if len(b) > registry.MaxAuthSize {
			return nil, fmt.Errorf("--registry-auth-file %s: larger than %d bytes", o.AuthFile, registry.MaxAuthSize)
		}
		s.auth = b
	}
	return s, nil
}

// guestConf is the registry configuration as the guest sees it: services on
// this machine's loopback have another address there.
func (s *sources) guestConf() registry.Conf {
	c := registry.Conf{UnqualifiedSearch: s.conf.UnqualifiedSearch}
	for _, r := range s.conf.Registries {
		if r.Prefix == "" {
			r.Prefix = r.Location
		}
		r.Location = guestLocation(r.Location)
		var ms []registry.Mirror
		for _, m := range r.Mirrors {
			m.Location = guestLocation(m.Location)
			ms = append(ms, m)
		}
		r.Mirrors = ms
		c.Registries = append(c.Registries, r)
	}
	return c
}

// resolve finds every image, several at a time. names maps the pod's image
// strings to the references to look up.
func (s *sources) resolve(ctx context.Context, names map[string]string) (map[string]*spec.ResolvedImage, error) {
	client, err := registry.New(registry.Config{Conf: s.conf, ExtraRoots: s.roots, Auth: s.auth})
	if err != nil {
		return nil, err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
		sem  = make(chan struct{}, 4)
		out  = map[string]*spec.ResolvedImage{}
	)
	for name, look := range names {
		wg.Go(func() {
			sem <- struct{}{}
			defer func() { <-sem }()
			img, err := resolveOne(ctx, client, look)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, &ImageError{Image: name, Err: err})
				return
			}
			out[name] = img
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func resolveOne(ctx context.Context, c *registry.Client, name string) (*spec.ResolvedImage, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return nil, err
	}
	r, err := c.Resolve(ctx, ref, manifest.Platform{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		return nil, err
	}
	d := r.IndexDigest
	if d == "" {
		d = r.ManifestDigest
	}
	img := &spec.ResolvedImage{
		Reference:      ref.Name() + "@" + string(d),
		ManifestDigest: string(r.ManifestDigest),
		IndexDigest:    string(r.IndexDigest),
		Config:         r.Config,
	}
	for _, l := range r.Manifest.Layers {
		img.LayerBytes += l.Size
	}
	return img, nil
}
