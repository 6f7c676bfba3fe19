package unpacker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
)

// Images gives the agent the images of a pod policy.
type Images struct {
	Service *Service
	// Config gives how to pull; called for each image, so that credentials are
	// fetched from the trustee only when there is something to pull.
	Config    func(ctx context.Context) (registry.Config, error)
	KeySocket func(ctx context.Context, manifest digest.Digest) (*os.File, error)
	Trustee   string                         // URL that keys come from, for who reads that it does not answer
	Progress  func(image string, p Progress) // may be nil
	Log       *slog.Logger                   // may be nil
}

// Prepare pulls c's image by the policy's digests. Its error is a *PullError.
func (im *Images) Prepare(ctx context.Context, c *podpolicy.Container) (*agent.Image, error) {
	req, err := Request(c)
	if err != nil {
		return nil, newPullError(c.Image, told(err.Error()), nil) // the policy is the host's to read
	}
	if im.Config != nil {
		if req.Config, err = im.Config(ctx); err == nil {
			req.Config, err = req.Config.For(req.Image)
		}
		if err != nil {
			return nil, newPullError(c.Image, mark(fmt.Errorf("image %s: registry configuration: %w", c.Image, err), errConfig), nil)
		}
	}
	req.KeySocket, req.BeforeKeys = im.KeySocket, agent.Asked
	if im.Progress != nil {
		req.Progress = func(p Progress) { im.Progress(c.Image, p) }
	}
	began := time.Now()
	img, err := im.Service.Pull(ctx, req)
	if err != nil {
		e := newPullError(c.Image, err, places(&req))
		e.trustee = im.Trustee
		return nil, e
	}
	if im.Log != nil {
		t := &img.Times
		im.Log.Info("image ready", "container", c.Name, "duration", time.Since(began),
			"resolve", t.Resolve, "key", t.Key, "fetch", t.Fetch, "decrypt", t.Decrypt, "unpack", t.Unpack)
	}
	out := &agent.Image{}
	for i := len(img.Layers) - 1; i >= 0; i-- {
		out.Layers = append(out.Layers, img.Layers[i].Dir)
	}
	return out, nil
}

// places gives the hosts of the registries that a pull asks.
func places(req *PullRequest) (out []string) {
	srcs, err := req.Config.Conf.Sources(req.Image)
	if err != nil {
		return nil
	}
	for _, s := range srcs {
		out = append(out, s.Ref.Domain)
	}
	return out
}

// Request gives the part of a PullRequest that the policy decides.
func Request(c *podpolicy.Container) (PullRequest, error) {
	ref, err := reference.Parse(c.Image)
	if err != nil {
		return PullRequest{}, err
	}
	req := PullRequest{Image: ref}
	if req.ManifestDigest, err = digest.Parse(c.ManifestDigest); err != nil {
		return PullRequest{}, fmt.Errorf("image %s: manifest: %w", c.Image, err)
	}
	if c.IndexDigest != "" {
		if req.IndexDigest, err = digest.Parse(c.IndexDigest); err != nil {
			return PullRequest{}, fmt.Errorf("image %s: index: %w", c.Image, err)
		}
	}
	return req, nil
}

// RegistryConfig turns cdh.toml's image table into a registry configuration.
// auth is the auth.json that its authenticated_registry_credentials_uri names,
// nil without one. What the table asks for and this guest does not do yet is an
// error: an owner who wants signatures checked must not get a pod without.
func RegistryConfig(img *initdata.CDHImage, auth []byte) (registry.Config, error) {
	cfg := registry.Config{Auth: auth, ExtraRoots: img.ExtraRootCertificates}
	if img.ImageSecurityPolicy != "" || img.ImageSecurityPolicyURI != "" || img.SigstoreConfig != "" || img.SigstoreConfigURI != "" {
		return cfg, told("cdh.toml: image signature policies are not supported yet")
	}
	if img.RegistryConfigurationURI != "" {
		return cfg, told("cdh.toml: image.registry_configuration_uri is not supported, use image.registry_config")
	}
	if img.AuthenticatedRegistryCredentialsURI != "" && auth == nil {
		return cfg, told("cdh.toml: image.authenticated_registry_credentials_uri is set and nothing was fetched for it")
	}
	if p := img.ImagePullProxy; p != nil {
		cfg.Proxy = registry.Proxy{HTTPS: p.HTTPS, HTTP: p.HTTP, NoProxy: p.No}
	}
	if c := img.RegistryConfig; c != nil {
		cfg.Conf.UnqualifiedSearch = c.UnqualifiedSearchRegistries
		for _, r := range c.Registry {
			out := registry.Registry{Prefix: r.Prefix, Location: r.Location, Insecure: r.Insecure, Blocked: r.Blocked}
			for _, m := range r.Mirror {
				out.Mirrors = append(out.Mirrors, registry.Mirror{Location: m.Location, Insecure: m.Insecure})
			}
			cfg.Conf.Registries = append(cfg.Conf.Registries, out)
		}
	}
	return cfg, cfg.Conf.Check()
}
