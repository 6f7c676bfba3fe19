package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/simhw"
	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/cca"
	cca_sim "github.com/cofferproject/coffer/tee/cca/sim"
	"github.com/cofferproject/coffer/tee/cca/token"
)

func powerCCA(c *host.Config, in *host.Inputs) (*host.Model, error) {
	key, root, err := host.Root(c.CADir, "cca", func() (*ecdsa.PrivateKey, *x509.Certificate, error) { return cca_sim.NewRoot(time.Now()) })
	if err != nil {
		return nil, err
	}
	notes := []string{"platform firmware", "host capabilities", "device tree"}
	rpv, err := register(launch.CCASim, in, cca.RPVSize)
	if err != nil {
		return nil, err
	}
	m, err := cca_sim.New(key, &cca_sim.Inputs{
		Kernel: in.Kernel, Initrd: in.Initrd, Cmdline: in.Cmdline, MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, RPV: [cca.RPVSize]byte(rpv),
	}, host.Note(launch.CCASim, in, notes))
	if err != nil {
		return nil, err
	}
	platform, err := ccaPlatform(m)
	if err != nil {
		return nil, err
	}
	return &host.Model{
		Platform: platform,
		Hardware: reporter{m}, Provider: m.Provider(), Root: root.Raw, Notes: notes,
		Digests: map[string]string{"cca-realm-initial-measurement": hex.EncodeToString(m.RIM()), "init_data": hex.EncodeToString(m.InitdataRegister())},
	}, nil
}

// ccaPlatform gives what the platform's vendor would publish.
func ccaPlatform(m *cca_sim.Machine) (map[string]any, error) {
	raw, err := m.Token([cca.ChallengeSize]byte{})
	if err != nil {
		return nil, err
	}
	t, err := token.Parse(raw)
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	var components []any
	for _, c := range t.Platform.Components {
		components = append(components, b64(c.Measurement))
	}
	return map[string]any{
		"cca_platform_implementation_id": []any{b64(t.Platform.ImplementationID)},
		"cca_platform_sw_components":     components,
		"cca_platform_config":            []any{b64(t.Platform.Config)},
	}, nil
}

// reporter is hardware that gives reports and has no run-time registers.
type reporter struct{ attest.Reporter }

func (r reporter) Handle(ctx context.Context, op simhw.Op, _ byte, p []byte) ([]byte, error) {
	if op != simhw.OpReport {
		return nil, host.ErrUnsupported
	}
	out, aux, err := r.Report(ctx, p)
	if err != nil {
		return nil, err
	}
	return simhw.JoinBlobs(out, aux), nil
}
