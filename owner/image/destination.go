package image

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/registry"
)

// deliver writes an image to l: build fills a layout and gives the image in it.
// Only a directory is written in place; the rest is staged, so that a failure
// leaves nothing half done.
func deliver(ctx context.Context, l Location, a *Access, build func(*layoutWriter) (manifest.Descriptor, error)) (_ manifest.Descriptor, err error) {
	dir := l.Path
	if l.Kind == OCI {
		if _, serr := os.Stat(dir); errors.Is(serr, fs.ErrNotExist) {
			defer func() {
				if err != nil {
					_ = os.RemoveAll(dir)
				}
			}()
		}
	} else {
		near := "" // a temporary folder of the system's
		if l.Kind != Registry {
			near = filepath.Dir(l.Path)
		}
		if dir, err = os.MkdirTemp(near, ".coffer-image-"); err != nil {
			return manifest.Descriptor{}, fmt.Errorf("writing image: %w", err)
		}
		defer os.RemoveAll(dir)
	}
	w, err := newLayoutWriter(dir)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	root, err := build(w)
	if err != nil {
		return manifest.Descriptor{}, err
	}
	if err := w.finish(root, l.Tag); err != nil {
		return manifest.Descriptor{}, err
	}
	switch l.Kind {
	case OCI:
		return root, nil
	case OCIArchive:
		return root, replaceFile(l.Path, func(f *os.File) error { return tarDir(f, dir) })
	case DockerArchive:
		return root, writeDockerArchive(ctx, l, dir, root)
	}
	return root, push(ctx, l, a, dir, root)
}

// replaceFile writes a file under another name first.
func replaceFile(path string, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".coffer-image-")
	if err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(fill(f), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("writing image %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	return nil
}

// tarDir packs a layout; the same layout gives the same bytes.
func tarDir(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: p, Typeflag: tar.TypeReg, Mode: 0o644, Size: st.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func hashOf(d manifest.Descriptor) (v1.Hash, error) { return v1.NewHash(string(d.Digest)) }

// push uploads a layout's image. Of a place's mirrors none is written to.
func push(ctx context.Context, l Location, a *Access, dir string, root manifest.Descriptor) error {
	srcs, err := a.Conf.Sources(l.Ref)
	if err != nil {
		return err
	}
	to := srcs[len(srcs)-1] // the place itself comes after its mirrors
	opts := []name.Option{name.StrictValidation}
	if to.Insecure {
		opts = append(opts, name.Insecure)
	}
	target := to.Ref.Name() + ":" + to.Ref.Tag
	if to.Ref.Tag == "" {
		target = to.Ref.Name() + "@" + string(root.Digest)
	}
	ref, err := name.ParseReference(target, opts...)
	if err != nil {
		return fmt.Errorf("pushing %s: %w", l, err)
	}
	user, password, have, err := registry.Credentials(a.Auth, to.Ref.Name())
	if err != nil {
		return err
	}
	auth := authn.Anonymous
	if have {
		auth = authn.FromConfig(authn.AuthConfig{Username: user, Password: password})
	}
	t, err := pushTransport(a, to.Insecure)
	if err != nil {
		return err
	}
	ropts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(t), remote.WithUserAgent("coffer")}
	h, err := hashOf(root)
	if err != nil {
		return err
	}
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fmt.Errorf("pushing %s: %w", l, err)
	}
	if root.MediaType == manifest.TypeOCIIndex || root.MediaType == manifest.TypeDockerList {
		var x v1.ImageIndex
		if x, err = idx.ImageIndex(h); err == nil {
			err = remote.WriteIndex(ref, x, ropts...)
		}
	} else {
		var img v1.Image
		if img, err = idx.Image(h); err == nil {
			err = remote.Write(ref, img, ropts...)
		}
	}
	if err != nil {
		return fmt.Errorf("pushing %s: %w", l, err)
	}
	return nil
}

// httpsOnly refuses what go-containerregistry does by itself: plain HTTP to
// private addresses.
type httpsOnly struct{ http.RoundTripper }

func (h httpsOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("registry %s: plain HTTP only where the registry configuration says insecure = true", r.URL.Host)
	}
	return h.RoundTripper.RoundTrip(r)
}

func pushTransport(a *Access, insecure bool) (http.RoundTripper, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, p := range a.Roots {
		pool.AppendCertsFromPEM([]byte(p))
	}
	var t http.RoundTripper = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
	}
	if !insecure {
		t = httpsOnly{t}
	}
	return t, nil
}
