// Package verifier checks evidence of NVIDIA devices: chain to NVIDIA's device
// root, firmware identity, revocation, the signature over the SPDM messages,
// nonce, and the measurements against reference manifests (tee/nvidia/SPEC.md).
//
// Invariants: a pure function of its inputs, no network; every refusal is a
// *denial.Denial with a stable id; the root is known by its public key; what a
// device's own text says (architecture) must be what its chain says.
//
// Trust zone: trustee and owner.
package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "nvidia-verifier"

// ClassPPCIE is the class of the result that says how GPUs and switches hang
// together.
const ClassPPCIE = "ppcie"

// What no outside vector has shown to be right (Config.AllowUnproven).
const (
	UnprovenSwitch    = "nvidia-switch"
	UnprovenBlackwell = "nvidia-blackwell"
	UnprovenRIM       = "nvidia-rim"
)

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonEvidenceMalformed denial.Reason = "nvidia-evidence-malformed"
	ReasonReportMalformed   denial.Reason = "nvidia-report-malformed"
	ReasonChainMalformed    denial.Reason = "nvidia-chain-malformed"
	ReasonChainUntrusted    denial.Reason = "nvidia-chain-untrusted"
	ReasonChainExpired      denial.Reason = "nvidia-chain-expired"
	ReasonRevoked           denial.Reason = "nvidia-certificate-revoked"
	ReasonArchMismatch      denial.Reason = "nvidia-arch-mismatch"
	ReasonFWIDMismatch      denial.Reason = "nvidia-fwid-mismatch"
	ReasonReportSignature   denial.Reason = "nvidia-report-signature"
	ReasonDeviceRepeated    denial.Reason = "nvidia-device-repeated"
)

// Verifier checks NVIDIA evidence. It is immutable but for caches of what does
// not change, and safe for concurrent use.
type Verifier struct {
	cfg             verify.Config
	roots, rimRoots []*x509.Certificate

	chains     revocation.Cache[[32]byte, *chain]
	manifests  revocation.Cache[[32]byte, *manifest]
	revocation revocation.Checker
}

var _ verify.Verifier = (*Verifier)(nil)

// New refuses a configuration that leaves a security choice open.
func New(c verify.Config) (*Verifier, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: c}
	v.revocation.InsecureExpired = c.InsecureExpiredCollateral
	if c.Kind == verify.InsecureSimulated {
		v.roots, v.rimRoots = c.SimulatedRoots, c.SimulatedRoots
		return v, nil
	}
	var err error
	if v.roots, v.rimRoots, err = embedded(); err != nil {
		return nil, err
	}
	return v, nil
}

func embedded() (devices, manifests []*x509.Certificate, err error) {
	device, err := certchain.EmbeddedRoot(deviceRootPEM, deviceRootSPKI)
	if err != nil {
		return nil, nil, err
	}
	rim, err := certchain.EmbeddedRoot(rimRootPEM, rimRootSPKI)
	if err != nil {
		return nil, nil, err
	}
	return []*x509.Certificate{device}, []*x509.Certificate{rim}, nil
}

// Verify implements verify.Verifier: one Result a device, and one of ClassPPCIE
// where GPUs and switches name each other.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := nvidia.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonEvidenceMalformed, Component, "evidence", err)
	}
	if err := v.cfg.Kind.CheckNote(Component, e.Simulation); err != nil {
		return nil, err
	}
	if in.Initdata != nil {
		return nil, verify.Deny(verify.ReasonInitdataUnbound, Component, "initdata", errors.New("NVIDIA devices bind none; the CPU's evidence does"))
	}
	var out []*verify.Result
	seen := map[[32]byte]int{}
	for i := range e.Devices {
		d := &device{v: v, in: in, dev: &e.Devices[i], name: fmt.Sprintf("device %d: ", i)}
		r, err := d.verify()
		if err != nil {
			return nil, err
		}
		id := sha256.Sum256(d.chain.certs[1].RawSubjectPublicKeyInfo)
		if first, dup := seen[id]; dup {
			return nil, &denial.Denial{
				Reason: ReasonDeviceRepeated, Component: Component, Claim: d.name + "identity", Measured: fmt.Sprintf("the same device as device %d", first),
				Expected: "another device", Source: "certificate chains of this evidence",
			}
		}
		seen[id] = i
		r.SimulationNote = e.Simulation
		out = append(out, r)
	}
	if r := v.ppcie(out); r != nil {
		out = append(out, r)
	}
	return out, nil
}

// device is the verification of one device.
type device struct {
	v     *Verifier
	in    *verify.Input
	dev   *nvidia.Device
	name  string // "device 0: ", in front of claims
	arch  nvidia.Arch
	rep   *spdm.Report
	chain *chain
	rev   revoked
	res   *verify.Result
}

func (d *device) deny(reason denial.Reason, claim string, err error) error {
	return verify.Deny(reason, Component, d.name+claim, err)
}

func (d *device) verify() (*verify.Result, error) {
	arch, err := nvidia.ParseArch(d.dev.Arch)
	if err != nil {
		return nil, d.deny(ReasonEvidenceMalformed, "arch", err)
	}
	d.arch = arch
	d.res = &verify.Result{
		TEE: nvidia.WireName, Class: verify.ClassGPU, Claims: map[string]any{}, Detail: map[string]any{},
		Simulated: d.v.cfg.Kind == verify.InsecureSimulated,
	}
	if err := d.unproven(); err != nil {
		return nil, err
	}
	b, err := d.dev.ReportBytes()
	if err != nil {
		return nil, d.deny(ReasonEvidenceMalformed, "evidence", err)
	}
	if d.rep, err = spdm.Parse(b); err != nil {
		return nil, d.deny(ReasonReportMalformed, "attestation report", err)
	}
	for _, step := range []func() error{d.checkFields, d.checkChain, d.checkArch, d.checkFWID, d.checkRevocation, d.checkSignature} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	d.claims()
	// The field is the requester's nonce: what this session asked for.
	if err := verify.CheckReportData(Component, d.rep.Nonce[:], d.in, d.res); err != nil {
		return nil, err
	}
	d.res.Claims[d.claim("attestation-report-nonce-match")] = !d.in.InsecureSkipReportData
	if err := d.checkManifests(); err != nil {
		return nil, err
	}
	return d.res, nil
}

// unproven demands leave for what no vector has shown.
func (d *device) unproven() error {
	var what string
	switch d.arch {
	case nvidia.Hopper:
		return nil
	case nvidia.Blackwell:
		what = UnprovenBlackwell
	case nvidia.LS10:
		what, d.res.Class = UnprovenSwitch, verify.ClassSwitch
	}
	if err := d.v.cfg.Unproven(Component, what); err != nil {
		return err
	}
	d.res.Unproven = append(d.res.Unproven, what)
	return nil
}

// checkFields demands what the claims are about.
func (d *device) checkFields() error {
	need := []spdm.Field{spdm.FieldVBIOSVersion, spdm.FieldFWID}
	if d.arch != nvidia.LS10 {
		need = append(need, spdm.FieldDriverVersion)
	}
	for _, f := range need {
		if b, ok := d.rep.Opaque.Raw(f); !ok || len(b) == 0 {
			return d.deny(ReasonReportMalformed, "attestation report", fmt.Errorf("opaque field %d is missing", f))
		}
	}
	return nil
}

// claim gives a claim's name in NVIDIA's spelling.
func (d *device) claim(suffix string) string {
	if d.arch == nvidia.LS10 {
		return "x-nvidia-switch-" + suffix
	}
	return "x-nvidia-gpu-" + suffix
}

func (d *device) checkSignature() error {
	if !verifyRaw(d.chain.key, d.rep.Signed, d.rep.Signature) {
		return d.deny(ReasonReportSignature, "attestation report", errors.New("the signature is not the device's"))
	}
	d.res.Checked("attestation report signature", "P-384", "leaf certificate "+hex.EncodeToString(d.chain.leafSPKI[:]))
	return nil
}
