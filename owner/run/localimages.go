package run

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/owner/image"
)

// localRegistry serves images from disk to the guest for as long as the run
// lives.
type localRegistry struct {
	server *image.Server
	http   *http.Server
}

func (l *localRegistry) close() {
	if l.http != nil {
		_ = l.http.Close()
		_ = l.server.Close()
	}
}

// serveLocal offers the images named with --image on loopback and leads their
// names there. What the guest pulls is bound by digest like any other image, so
// plain HTTP to this machine takes nothing away.
func serveLocal(ctx context.Context, src *sources) (*localRegistry, error) {
	if len(src.opts.Local) == 0 {
		return &localRegistry{}, nil
	}
	l := &localRegistry{server: image.NewServer()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serving images from disk: %w", err)
	}
	l.http = &http.Server{Handler: l.server, ReadHeaderTimeout: 10 * time.Second}
	n := 0
	for name, where := range src.opts.Local {
		ref, err := reference.Parse(name)
		if err != nil {
			_ = ln.Close()
			return nil, &InputError{fmt.Errorf("--image %s: %w", name, err)}
		}
		loc, err := image.ParseLocation(where)
		if err != nil {
			_ = ln.Close()
			return nil, &InputError{fmt.Errorf("--image %s: %w", name, err)}
		}
		repo := fmt.Sprintf("local/%d", n)
		n++
		tag := ref.Tag
		if tag == "" {
			tag = "latest"
		}
		d, err := l.server.Add(ctx, repo, tag, loc)
		if err != nil {
			_ = ln.Close()
			return nil, &ImageError{Image: name, Err: err}
		}
		if ref.Digest != "" && ref.Digest != d {
			_ = ln.Close()
			return nil, &ImageError{Image: name, Err: fmt.Errorf("%s holds %s", where, d)}
		}
		src.conf.Registries = append(src.conf.Registries, registry.Registry{
			Prefix: ref.Name(), Location: ln.Addr().String() + "/" + repo, Insecure: true,
		})
	}
	go func() { _ = l.http.Serve(ln) }()
	return l, nil
}
