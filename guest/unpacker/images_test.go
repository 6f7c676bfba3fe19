package unpacker

import (
	"context"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/test/imagetest"
)

func TestRegistryConfig(t *testing.T) {
	cfg, err := RegistryConfig(&initdata.CDHImage{
		ExtraRootCertificates: []string{"pem"},
		ImagePullProxy:        &initdata.PullProxy{HTTPS: "proxy.test:1", No: "a.test"},
		RegistryConfig: &initdata.RegistryConfig{Registry: []initdata.Registry{
			{Prefix: "r.test", Location: "10.0.2.2:5000", Insecure: true, Mirror: []initdata.Mirror{{Location: "m.test"}}}, {Location: "b.test", Blocked: true}}},
	}, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r := cfg.Conf.Registries
	if len(r) != 2 || r[0].Location != "10.0.2.2:5000" || !r[0].Insecure || r[0].Mirrors[0].Location != "m.test" || !r[1].Blocked || cfg.Proxy.HTTPS != "proxy.test:1" || len(cfg.ExtraRoots) != 1 || string(cfg.Auth) != "{}" {
		t.Errorf("%+v", cfg)
	}
	// What is asked for and not done must not be passed over.
	for want, img := range map[string]*initdata.CDHImage{
		"signature":                              {ImageSecurityPolicyURI: "kbs:///a/b/c"},
		"signature policies":                     {ImageSecurityPolicy: "{}"},
		"sig":                                    {SigstoreConfig: "x"},
		"registry_configuration_uri":             {RegistryConfigurationURI: "kbs:///a/b/c"},
		"authenticated_registry_credentials_uri": {AuthenticatedRegistryCredentialsURI: "kbs:///a/b/c"},
		"appears twice":                          {RegistryConfig: &initdata.RegistryConfig{Registry: []initdata.Registry{{Location: "a.test"}, {Location: "a.test"}}}},
	} {
		if _, err := RegistryConfig(img, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPrepare(t *testing.T) {
	r := imagetest.NewRegistry(t)
	one, two := imagetest.Tar(t, imagetest.Entry{Name: "one"}), imagetest.Tar(t, imagetest.Entry{Name: "two"})
	m := r.Image(t, "v1", `{}`, one, two)
	s := newService(t, Options{})
	im := &Images{Service: s, Config: func(context.Context) (registry.Config, error) { return request(t, r, m).Config, nil }}
	c := &podpolicy.Container{Image: r.Host() + "/team/app@" + string(m), ManifestDigest: string(m)}
	img, err := im.Prepare(t.Context(), c)
	if err != nil || len(img.Layers) != 2 {
		t.Fatal(err)
	}
	full, err := s.Pull(t.Context(), request(t, r, m))
	if err != nil || img.Layers[0] != full.Layers[1].Dir { // the topmost comes first
		t.Errorf("%v %v", img, err)
	}
	for _, bad := range []podpolicy.Container{
		{Image: c.Image}, {Image: "UPPER", ManifestDigest: string(m)}, {Image: c.Image, ManifestDigest: "sha256:00"},
		{Image: c.Image, ManifestDigest: string(one.DiffID)}, // another digest than the reference's
	} {
		if _, err := im.Prepare(t.Context(), &bad); err == nil {
			t.Errorf("prepared %+v", bad)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"done":true,"opaque":["a"]}`))
	f.Add([]byte(`{"error":"x","denial":{"reason":"y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs, err := socketpair()
		if err != nil {
			t.Skip(err)
		}
		defer ours.Close()
		go func() {
			_, _ = theirs.Write(b)
			_ = theirs.Close()
		}()
		var r reply
		for {
			files, err := receive(ours, &r)
			closeAll(files)
			if err != nil {
				return
			}
		}
	})
}
