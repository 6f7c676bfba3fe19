package pid1

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/guest/unpacker"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/registry"
)

// parserMemory is what all image parsers together may use.
const parserMemory = 128 << 20

// credentialTime bounds one question for registry credentials: it may have to
// wait for the first attestation.
const credentialTime = time.Minute

// maxCredentials bounds an auth.json.
const maxCredentials = 1 << 20

// startUnpacker starts what pulls images. The result gives the agent images from
// registries, as initdata says.
func startUnpacker(sup *proc.Supervisor, log *slog.Logger) (func(*Guest) (agent.Images, error), error) {
	floor, err := boot.Floor()
	if err != nil {
		return nil, err
	}
	opt := unpacker.Options{
		Root:       filepath.Join(boot.StateDir, "images"),
		Start:      unpacker.WithSupervisor(sup, parserMemory),
		ResolvConf: boot.ResolvConf,
		Hosts:      "/etc/hosts",
		// The key holder alone sees signed times; a registry's certificate is
		// checked against the floor, its content against the policy's digest.
		Clock: func() (time.Time, bool) { return floor, true },
		Warm:  true,
	}
	if sup.LibraryOS {
		opt.Workers = 1 // a process of ours more costs more than layers side by side gain
	}
	svc, err := unpacker.New(opt)
	if err != nil {
		return nil, err
	}
	go func() {
		if err := svc.Warm(); err != nil {
			log.Error("starting the image parser", "err", err)
		}
	}()
	return func(g *Guest) (agent.Images, error) {
		var trustee string
		if d := g.Initdata.Document; d != nil {
			trustee, _, _, _ = d.KBS() // what is wrong with it is the key holder's to say
		}
		images, err := recordPulls(g, &unpacker.Images{
			Trustee:   trustee,
			Service:   svc,
			Log:       g.Log,
			Config:    func(ctx context.Context) (registry.Config, error) { return registryConfig(ctx, g) },
			KeySocket: func(_ context.Context, manifest digest.Digest) (*os.File, error) { return g.LayerKey(string(manifest)) },
		})
		if err != nil {
			return nil, err
		}
		return onDisk(g, images, svc.MoveTo), nil
	}, nil
}

// diskImages opens the disk for images before the first one is pulled.
type diskImages struct {
	agent.Images
	open func(ctx context.Context) error

	mu     sync.Mutex
	opened bool
}

// onDisk wraps images if the policy has a disk for them.
func onDisk(g *Guest, images agent.Images, moveTo func(ctx context.Context, dir string) error) agent.Images {
	if g.Initdata.Policy == nil {
		return images
	}
	v := g.Initdata.Policy.Volume(podpolicy.ImagesVolume)
	if v == nil {
		return images
	}
	return &diskImages{Images: images, open: func(ctx context.Context) error {
		if _, err := g.Disks.Open(ctx, v); err != nil {
			return err
		}
		return moveTo(ctx, v.Path())
	}}
}

// Prepare implements agent.Images.
func (d *diskImages) Prepare(ctx context.Context, c *podpolicy.Container) (*agent.Image, error) {
	if err := agent.Asked(ctx); err != nil { // the disk has a key too
		return nil, err
	}
	d.mu.Lock()
	if !d.opened {
		if err := d.open(ctx); err != nil {
			d.mu.Unlock()
			return nil, err
		}
		d.opened = true
	}
	d.mu.Unlock()
	return d.Images.Prepare(ctx, c)
}

func registryConfig(ctx context.Context, g *Guest) (registry.Config, error) {
	if g.Initdata.Document == nil {
		return registry.Config{}, nil
	}
	cdh, err := g.Initdata.Document.CDH()
	if err != nil || cdh == nil {
		return registry.Config{}, err
	}
	var auth []byte
	if uri := cdh.Image.AuthenticatedRegistryCredentialsURI; uri != "" {
		if err = agent.Asked(ctx); err == nil {
			auth, err = fetch(ctx, uri)
		}
		if err != nil {
			return registry.Config{}, fmt.Errorf("fetching registry credentials: %w", err)
		}
	}
	return unpacker.RegistryConfig(&cdh.Image, auth)
}

// fetch asks the key holder for a resource.
func fetch(ctx context.Context, uri string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, credentialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", keyholder.CDHSocket)
	if err != nil {
		return nil, err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	r, err := cdhpb.NewGetResourceServiceClient(c).GetResource(ctx, &cdhpb.GetResourceRequest{ResourcePath: uri})
	if err != nil {
		return nil, err
	}
	if len(r.GetResource()) > maxCredentials {
		return nil, fmt.Errorf("%d bytes, at most %d", len(r.GetResource()), maxCredentials)
	}
	return r.GetResource(), nil
}
