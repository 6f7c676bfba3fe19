package vmm

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/vmm/qmp"
)

// AskOwner hands a launch's measurement to the owner's service at a URL and gives the
// secret that it answers with.
type AskOwner func(ctx context.Context, url string, m *launch.SEVMeasurement) (*launch.SEVSecret, error)

// secretTimeout bounds how long the owner may take.
const secretTimeout = 2 * time.Minute

// ownerFiles are the owner's certificate and session as QEMU reads them: base64.
func (in *inputs) ownerFiles(p *launch.SNPParams) error {
	if p == nil || len(p.DHCert) == 0 {
		return nil
	}
	for _, f := range []struct {
		to   *string
		name string
		b    []byte
	}{{&in.paths.Hardware.DHCert, "dh-cert", p.DHCert}, {&in.paths.Hardware.Session, "session", p.Session}} {
		m, err := memory(f.name)
		if err != nil {
			return err
		}
		if _, err := m.WriteString(base64.StdEncoding.EncodeToString(f.b)); err != nil {
			_ = m.Close()
			return fmt.Errorf("writing the owner's %s: %w", f.name, err)
		}
		if m, err = readOnly(m); err != nil {
			return err
		}
		*f.to = in.path(m)
	}
	return nil
}

// hostOf is a service's host, for people: the rest of a URL may hold a token.
func hostOf(service string) string {
	u, err := url.Parse(service)
	if err != nil {
		return "its service"
	}
	return u.Host
}

// handSecret lets a paused launch of SEV or SEV-ES run with the owner's secret in its
// memory. Without one it does not run.
func handSecret(ctx context.Context, c *qmp.Client, p *launch.SNPParams, ask AskOwner) error {
	ctx, cancel := context.WithTimeoutCause(ctx, secretTimeout, errors.New("the launch secret did not come in time"))
	defer cancel()
	m, err := launchMeasurement(ctx, c)
	if err != nil {
		return fmt.Errorf("launch secret: measuring: %w", err)
	}
	s, err := ask(ctx, p.SecretService, m)
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		return fmt.Errorf("launch secret: the owner's service: %w", err)
	}
	packet := map[string][]byte{"packet-header": s.Header, "secret": s.Secret} // JSON has bytes in base64
	if _, err := c.Execute(ctx, "sev-inject-launch-secret", packet); err != nil {
		return fmt.Errorf("launch secret: the secure processor did not take it: %w", err)
	}
	if _, err := c.Execute(ctx, "cont", nil); err != nil {
		return fmt.Errorf("launch secret: starting the guest: %w", err)
	}
	return nil
}

// stateSecret is QEMU's name of the state in which a launch is measured and has not
// begun to run.
const stateSecret = "launch-secret"

func launchMeasurement(ctx context.Context, c *qmp.Client) (*launch.SEVMeasurement, error) {
	b, err := c.Execute(ctx, "query-sev", nil)
	if err != nil {
		return nil, err
	}
	var info struct {
		Enabled  bool   `json:"enabled"`
		State    string `json:"state"`
		APIMajor uint8  `json:"api-major"`
		APIMinor uint8  `json:"api-minor"`
		Build    uint8  `json:"build-id"`
		Policy   uint32 `json:"policy"`
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return nil, fmt.Errorf("query-sev: %w", err)
	}
	if !info.Enabled || info.State != stateSecret {
		return nil, fmt.Errorf("the launch is in state %.40q, not %q", info.State, stateSecret)
	}
	if b, err = c.Execute(ctx, "query-sev-launch-measure", nil); err != nil {
		return nil, err
	}
	var measured struct {
		Data []byte `json:"data"`
	}
	if err := json.Unmarshal(b, &measured); err != nil {
		return nil, fmt.Errorf("query-sev-launch-measure: %w", err)
	}
	const measure, nonce = 32, 16 // bytes
	if len(measured.Data) != measure+nonce {
		return nil, fmt.Errorf("query-sev-launch-measure: %d bytes, not %d", len(measured.Data), measure+nonce)
	}
	return &launch.SEVMeasurement{
		APIMajor: info.APIMajor, APIMinor: info.APIMinor, Build: info.Build, Policy: info.Policy,
		Measure: bytes.Clone(measured.Data[:measure]), Nonce: bytes.Clone(measured.Data[measure:]),
	}, nil
}
