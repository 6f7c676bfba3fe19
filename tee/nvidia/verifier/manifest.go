package verifier

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/rim"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/tee/verify"
)

// rimService is where NVIDIA publishes manifests; an item's origin is this and
// its id.
const rimService = "https://rim.attestation.nvidia.com/v1/rim/"

// manifestOrigin is under which origin a device's manifests are published: NVIDIA's
// service, or the simulated vendor's that its chain leads to.
func manifestOrigin(simulated bool, certs []*x509.Certificate) string {
	if simulated {
		return nvidia.SimulatedOrigin(certs[len(certs)-1]) + "/v1/rim/"
	}
	return rimService
}

// nvdecMeasurement is not to be compared (index as manifests count) while the
// device has its video decoder disabled.
const nvdecMeasurement = 35

// manifest is a manifest that was read and whose chain was verified once.
type manifest struct {
	*rim.Manifest
	from, to time.Time
}

// wanted is a manifest that speaks of a device.
type wanted struct {
	kind    string // as claims spell it
	id      string
	version string
}

// manifestsOf names the manifests of a device by what it reports.
func manifestsOf(arch nvidia.Arch, rep *spdm.Report, model string) []wanted {
	o := rep.Opaque
	bios := strings.ToUpper(o.Text(spdm.FieldVBIOSVersion))
	plain := strings.ReplaceAll(bios, ".", "")
	if arch == nvidia.LS10 {
		return []wanted{{"bios-rim-", "NV_SWITCH_BIOS_5612_0002_890_" + plain, bios}}
	}
	driver := o.Text(spdm.FieldDriverVersion)
	board := []string{o.Text(spdm.FieldProject), o.Text(spdm.FieldProjectSKU), o.Text(spdm.FieldChipSKU)}
	return []wanted{
		{"driver-rim-", "NV_GPU_DRIVER_" + model + "_" + driver, driver},
		{"vbios-rim-", "NV_GPU_VBIOS_" + strings.ToUpper(strings.Join(board, "_")) + "_" + plain, bios},
	}
}

// modelOf is the chip's name in the certificate that the root signed: "GH100".
func modelOf(certs []*x509.Certificate) string {
	cn := certs[len(certs)-2].Subject.CommonName
	return strings.TrimSuffix(strings.TrimPrefix(cn, "NVIDIA "), " Identity")
}

// Origins lists the collateral that a verification of the evidence asks for,
// each origin once. Manifests that have hold are opened for what their chains
// ask for.
func Origins(evidence json.RawMessage, have collateral.Source) ([]string, error) {
	e, err := nvidia.Parse(evidence)
	if err != nil {
		return nil, err
	}
	var out []string
	chainOf := func(certs []*x509.Certificate) {
		for i := 0; i+1 < len(certs); i++ {
			l, r := revocation.Origins(certs[i], certs[i+1])
			out = append(append(out, l...), r...)
		}
	}
	for i := range e.Devices {
		d := &e.Devices[i]
		arch, err := nvidia.ParseArch(d.Arch)
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: %w", i, err)
		}
		b, err := d.ReportBytes()
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: evidence: %w", i, err)
		}
		rep, err := spdm.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: %w", i, err)
		}
		text, err := d.Chain()
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: certificate: %w", i, err)
		}
		certs, err := certchain.ParsePEM(text)
		if err != nil || len(certs) < minChain {
			return nil, fmt.Errorf("nvidia evidence: device %d: no chain: %w", i, err)
		}
		chainOf(certs)
		for _, w := range manifestsOf(arch, rep, modelOf(certs)) {
			origin := manifestOrigin(e.Simulation != "", certs) + w.id
			out = append(out, origin)
			if have == nil {
				continue
			}
			if it, ok := have.Get(origin); ok {
				if m, err := rim.Decode(it.Body, w.id); err == nil {
					chainOf(m.Chain)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// checkManifests compares the report with the manifests at hand. That one is
// missing, or that a value differs, is for a policy to judge by the claims; a
// manifest that cannot be believed is denied.
func (d *device) checkManifests() error {
	list := manifestsOf(d.arch, d.rep, modelOf(d.chain.certs))
	allowed := slices.Contains(d.v.cfg.AllowUnproven, UnprovenRIM)
	golden, all, conflict := map[int]rim.Golden{}, true, false
	for _, w := range list {
		var it *collateral.Item
		if allowed && d.v.cfg.Collateral != nil {
			it, _ = d.v.cfg.Collateral.Get(d.manifestOrigin() + w.id)
		}
		d.res.Claims[d.claim(w.kind+"fetched")] = it != nil
		if it == nil {
			all = false
			if allowed {
				d.in.Miss(d.manifestOrigin()+w.id, nil)
			}
			continue
		}
		m, err := d.openManifest(w, it)
		if err != nil {
			return err
		}
		if !slices.Contains(d.res.Unproven, UnprovenRIM) {
			d.res.Unproven = append(d.res.Unproven, UnprovenRIM)
		}
		all = all && strings.EqualFold(m.Version, w.version)
		for _, g := range m.Golden {
			if _, twice := golden[g.Index]; g.Active && twice {
				conflict = true
			} else if g.Active {
				golden[g.Index] = g
			}
		}
	}
	if !all {
		return nil
	}
	if d.arch != nvidia.LS10 {
		d.res.Claims[d.claim("vbios-index-no-conflict")] = !conflict
	}
	d.compare(golden, conflict)
	return nil
}

func (d *device) manifestOrigin() string {
	return manifestOrigin(d.v.cfg.Kind == verify.InsecureSimulated, d.chain.certs)
}

// openManifest verifies one manifest and says so in the claims.
func (d *device) openManifest(w wanted, it *collateral.Item) (*manifest, error) {
	claim := d.name + "reference manifest " + w.id
	m, err := d.v.manifests.Get(sha256.Sum256(append([]byte(w.id+"\n"), it.Body...)), func() (*manifest, error) { return d.v.newManifest(it.Body, w.id, d.in.Now) })
	if err == nil && (d.in.Now.Before(m.from) || d.in.Now.After(m.to)) {
		m, err = d.v.newManifest(it.Body, w.id, d.in.Now)
	}
	switch {
	case errors.Is(err, certchain.ErrExpired):
		d.in.Miss(it.Origin, nil)
		return nil, verify.Deny(verify.ReasonCollateralExpired, Component, claim, err)
	case errors.Is(err, certchain.ErrUntrusted), errors.Is(err, rim.ErrSignature):
		return nil, verify.Deny(verify.ReasonCollateralUntrusted, Component, claim, err)
	case err != nil:
		return nil, verify.Deny(verify.ReasonCollateralMalformed, Component, claim, err)
	}
	rev, err := d.v.checkRevoked(claim+": ", m.Chain, d.in)
	if err != nil {
		return nil, err
	}
	c := d.res.Claims
	for _, s := range []string{"schema-validated", "signature-verified", "measurements-available"} {
		c[d.claim(w.kind+s)] = true
	}
	c[d.claim(w.kind+"version-match")] = strings.EqualFold(m.Version, w.version)
	c[d.claim(w.kind+"cert-chain")] = certClaims(m.to, rev)
	d.res.Checked("reference manifest", m.Product+" "+m.Version, d.manifestOrigin()+w.id)
	return m, nil
}

func (v *Verifier) newManifest(body []byte, id string, now time.Time) (*manifest, error) {
	r, err := rim.Decode(body, id)
	if err != nil {
		return nil, err
	}
	return v.manifestAt(r, now)
}

// newManifestThen verifies one as of the time from which its chain is valid.
func (v *Verifier) newManifestThen(body []byte, id string) (*manifest, error) {
	r, err := rim.Decode(body, id)
	if err != nil {
		return nil, err
	}
	return v.manifestAt(r, revocation.Latest(r.Chain))
}

func (v *Verifier) manifestAt(r *rim.Manifest, now time.Time) (*manifest, error) {
	root, err := certchain.Verify(r.Chain, v.rimRoots, now)
	if err != nil {
		return nil, err
	}
	r.Chain[len(r.Chain)-1] = root
	leaf := r.Chain[0]
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, fmt.Errorf("%w: %s may not sign manifests", certchain.ErrUntrusted, leaf.Subject)
	}
	m := &manifest{Manifest: r, from: leaf.NotBefore, to: leaf.NotAfter}
	for _, c := range r.Chain {
		if c.NotBefore.After(m.from) {
			m.from = c.NotBefore
		}
		if c.NotAfter.Before(m.to) {
			m.to = c.NotAfter
		}
	}
	return m, nil
}

// compare holds the report against the expected values. As in NVIDIA's own
// verifier secure boot and debug are said to be as they should only where all
// measurements are.
func (d *device) compare(golden map[int]rim.Golden, conflict bool) {
	var bad []any
	for i := range 256 {
		g, ok := golden[i]
		if !ok || i == nvdecMeasurement && d.rep.Opaque.Text(spdm.FieldNVDEC0Status) == "disabled" {
			continue
		}
		var have []byte
		if g.ReportIndex() <= 255 {
			have, _ = d.rep.Value(uint8(g.ReportIndex()))
		}
		if slices.ContainsFunc(g.Values, func(want []byte) bool { return bytes.Equal(want, have) }) {
			continue
		}
		values := make([]any, len(g.Values))
		for j, v := range g.Values {
			values[j] = hex.EncodeToString(v)
		}
		bad = append(bad, map[string]any{"index": i, "name": g.Name, "goldenValue": values, "runtimeValue": hex.EncodeToString(have)})
	}
	c := d.res.Claims
	if len(bad) > 0 || conflict || len(golden) == 0 {
		c["measres"], c["x-nvidia-mismatch-measurement-records"] = "fail", bad
		return
	}
	c["measres"], c["secboot"], c["dbgstat"] = "success", true, "disabled"
	d.res.Checked("measurements", fmt.Sprintf("%d compared", len(golden)), "reference manifests")
}
