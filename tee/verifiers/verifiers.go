// Package verifiers is the list of all verifiers by wire name: the one place
// where those who judge evidence, the trustee and `coffer verify`, get them.
//
// Invariants: a TEE that is not listed has no verifier, there is no fallback;
// samples, which prove nothing, need an explicit switch.
//
// Trust zone: trustee and owner; the guest never links it.
package verifiers

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/azure"
	azureverifier "github.com/cofferproject/coffer/tee/azure/verifier"
	"github.com/cofferproject/coffer/tee/cca"
	ccaverifier "github.com/cofferproject/coffer/tee/cca/verifier"
	csvverifier "github.com/cofferproject/coffer/tee/csv/verifier"
	gcpverifier "github.com/cofferproject/coffer/tee/gcp/verifier"
	dcuverifier "github.com/cofferproject/coffer/tee/hygondcu/verifier"
	nitroverifier "github.com/cofferproject/coffer/tee/nitro/verifier"
	nvidiaverifier "github.com/cofferproject/coffer/tee/nvidia/verifier"
	"github.com/cofferproject/coffer/tee/nvidiadpu"
	dpuverifier "github.com/cofferproject/coffer/tee/nvidiadpu/verifier"
	"github.com/cofferproject/coffer/tee/sample"
	sampleverifier "github.com/cofferproject/coffer/tee/sample/verifier"
	"github.com/cofferproject/coffer/tee/se"
	semeasure "github.com/cofferproject/coffer/tee/se/measure"
	severifier "github.com/cofferproject/coffer/tee/se/verifier"
	sgxverifier "github.com/cofferproject/coffer/tee/sgx/verifier"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	tdxverifier "github.com/cofferproject/coffer/tee/tdx/verifier"
	"github.com/cofferproject/coffer/tee/tpm"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this package in denials.
const Component = "verifiers"

// ReasonUnsupported says that there is no verifier of that name.
const ReasonUnsupported denial.Reason = "tee-unsupported"

// Trust is what verifiers may believe.
type Trust struct {
	verify.Config
	// Anchors are documents that a TEE's production verifier needs beside the
	// vendors' embedded roots, by TEE and by the name in Anchors.
	Anchors map[string]map[string][]byte
	TPM     tpmverifier.Trust
	// SE seals challenges for this trustee; nil: none are made or opened.
	SE *severifier.Sealer
	// Azure holds what `coffer verify` may skip for recorded evidence.
	Azure azureverifier.Options
}

// anchor gives a document, or nil.
func (t *Trust) anchor(tee, name string) []byte { return t.Anchors[tee][name] }

// entry is one TEE.
type entry struct {
	// anchors lists the names of documents that New reads, with what they are.
	anchors map[string]string
	sample  bool
	make    func(*Trust) (verify.Verifier, error)
}

var all = map[string]entry{
	tpm.WireName: {make: func(t *Trust) (verify.Verifier, error) { return tpmverifier.NewTEE(t.Config, t.TPM) }},
	"snp":        {make: func(t *Trust) (verify.Verifier, error) { return snpverifier.New(t.Config) }},
	"tdx":        {make: func(t *Trust) (verify.Verifier, error) { return tdxverifier.New(t.Config) }},
	azure.SNP:    {make: func(t *Trust) (verify.Verifier, error) { return azureverifier.NewSNP(t.Config, t.Azure) }},
	azure.TDX:    {make: func(t *Trust) (verify.Verifier, error) { return azureverifier.NewTDX(t.Config, t.Azure) }},
	"sgx":        {make: func(t *Trust) (verify.Verifier, error) { return sgxverifier.New(t.Config) }},
	"nitro":      {make: func(t *Trust) (verify.Verifier, error) { return nitroverifier.New(t.Config) }},
	"gcp":        {make: func(t *Trust) (verify.Verifier, error) { return gcpverifier.New(t.Config) }},
	"hygondcu": {make: func(t *Trust) (verify.Verifier, error) {
		return dcuverifier.New(dcuverifier.Config{Config: t.Config})
	}},
	nvidiadpu.WireName:    {anchors: map[string]string{"roots": "certificates of the manufacturer (PEM)"}, make: newDPU},
	sample.WireName:       {sample: true, make: func(t *Trust) (verify.Verifier, error) { return newSample(sample.WireName, t) }},
	sample.DeviceWireName: {sample: true, make: func(t *Trust) (verify.Verifier, error) { return newSample(sample.DeviceWireName, t) }},
	"csv": {make: func(t *Trust) (verify.Verifier, error) {
		return csvverifier.New(csvverifier.Config{Config: t.Config})
	}},
	se.WireName: {
		anchors: map[string]string{
			"host-keys": "public keys of the machines (host key documents, PEM)", "image-header": "header of the one image that may attest, or the image's beginning",
		},
		make: newSE,
	},
	"nvidia": {make: func(t *Trust) (verify.Verifier, error) { return nvidiaverifier.New(t.Config) }},
	cca.WireName: {
		anchors: map[string]string{"trust-anchors": "CPAKs of platforms", "reference-values": "firmware of platforms"},
		make:    newCCA,
	},
}

// spellings are wire names of older peers.
var spellings = map[string]string{"azsnpvtpm": azure.SNP, "aztdxvtpm": azure.TDX, "nvidia-dpu": nvidiadpu.WireName, "nvidia_dpu": nvidiadpu.WireName}

// Canonical gives the wire name that an older spelling stands for.
func Canonical(tee string) string {
	if c, ok := spellings[tee]; ok {
		return c
	}
	return tee
}

// Names lists the wire names; samples only if they are wanted.
func Names(samples bool) []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if samples || !all[n].sample {
			out = append(out, n)
		}
	}
	return out
}

// Anchors lists the documents that a TEE's verifier reads: names and what they
// are.
func Anchors(tee string) map[string]string { return maps.Clone(all[tee].anchors) }

// New makes the verifier of a TEE. A sample's is refused here.
func New(tee string, t *Trust) (verify.Verifier, error) { return construct(tee, t, false) }

// NewInsecureSample is New that makes samples' verifiers too: their evidence is
// made by anybody.
func NewInsecureSample(tee string, t *Trust) (verify.Verifier, error) { return construct(tee, t, true) }

func construct(tee string, t *Trust, samples bool) (verify.Verifier, error) {
	e, ok := all[tee]
	if !ok || e.sample && !samples {
		return nil, &denial.Denial{
			Reason: ReasonUnsupported, Component: Component, Claim: "tee", Measured: short(tee), Expected: "one that has a verifier", Source: "docs/tees.md",
		}
	}
	return e.make(t)
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40]
	}
	return s
}

// AnchorKeys gives the keys that a document makes trustworthy.
func AnchorKeys(tee, name string, doc []byte) ([]crypto.PublicKey, error) {
	var out []crypto.PublicKey
	switch tee + "/" + name {
	case nvidiadpu.WireName + "/roots":
		certs, err := dpuRoots(doc)
		if err != nil {
			return nil, err
		}
		for _, c := range certs {
			out = append(out, c.PublicKey)
		}
	case se.WireName + "/host-keys":
		l, err := severifier.ParseHostKeys(doc)
		if err != nil {
			return nil, err
		}
		for _, k := range l {
			out = append(out, k)
		}
	case cca.WireName + "/trust-anchors":
		l, err := ccaverifier.ParseTrustAnchors(doc)
		if err != nil {
			return nil, err
		}
		for _, a := range l {
			out = append(out, a.Key)
		}
	}
	return out, nil
}

// AnchorCertificates gives the certificates in a document that makes some
// trustworthy; none where it lists bare keys.
func AnchorCertificates(tee, name string, doc []byte) ([]*x509.Certificate, error) {
	if tee+"/"+name != nvidiadpu.WireName+"/roots" {
		return nil, nil
	}
	return dpuRoots(doc)
}

func dpuRoots(rest []byte) (out []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("roots of DPUs: %w", err)
		}
		out = append(out, c)
	}
}

// newDPU has no built-in root: without a registered one there is no verifier.
func newDPU(t *Trust) (verify.Verifier, error) {
	var o dpuverifier.Options
	var err error
	if o.Roots, err = dpuRoots(t.anchor(nvidiadpu.WireName, "roots")); err != nil {
		return nil, err
	}
	if t.Kind == verify.Production && len(o.Roots) == 0 {
		return nil, &denial.Denial{
			Reason: ReasonUnsupported, Component: Component, Claim: "root of NVIDIA DPUs", Measured: "none registered",
			Expected: "anchor " + nvidiadpu.WireName + "/roots", Source: "docs/tees.md",
		}
	}
	return dpuverifier.New(t.Config, o)
}

// newSE makes challenges where host keys, an image and a sealing key are there.
func newSE(t *Trust) (verify.Verifier, error) {
	c := severifier.Config{Config: t.Config}
	if t.SE != nil {
		c.Opener, c.Challenges = t.SE, &severifier.Challenges{Sealer: t.SE}
	}
	if b := t.anchor(se.WireName, "host-keys"); b != nil {
		keys, err := severifier.ParseHostKeys(b)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			h, err := severifier.HostKeyHash(k)
			if err != nil {
				return nil, err
			}
			c.HostKeys = append(c.HostKeys, h)
		}
		if c.Challenges != nil {
			c.Challenges.HostKeys = keys
		}
	}
	if b := t.anchor(se.WireName, "image-header"); b != nil {
		h, err := semeasure.ReadHeader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		c.Images = []*se.Tags{h.Tags}
		if c.Challenges != nil {
			c.Challenges.Image = h.Tags
		}
	}
	return severifier.New(c)
}

// newSample is for simulated namespaces alone.
func newSample(tee string, t *Trust) (verify.Verifier, error) {
	if t.Kind != verify.InsecureSimulated {
		return nil, verify.Mismatch(verify.ReasonSimulated, Component, "tee", tee, "a TEE", "production namespace")
	}
	return sampleverifier.New(sampleverifier.InsecureSample, tee, t.Config)
}

// newCCA reads the anchors of production; a simulated namespace has roots.
func newCCA(t *Trust) (verify.Verifier, error) {
	c := ccaverifier.Config{Config: t.Config}
	var err error
	if b := t.anchor(cca.WireName, "trust-anchors"); b != nil {
		if c.TrustAnchors, err = ccaverifier.ParseTrustAnchors(b); err != nil {
			return nil, err
		}
	}
	if b := t.anchor(cca.WireName, "reference-values"); b != nil {
		if c.References, err = ccaverifier.ParseReferences(b); err != nil {
			return nil, err
		}
	}
	return ccaverifier.New(c)
}

// CheckAnchor reports whether a TEE's verifier can read a document.
func CheckAnchor(tee, name string, doc []byte) error {
	_, err := New(tee, &Trust{
		Config: verify.Config{Kind: verify.Production}, Anchors: map[string]map[string][]byte{tee: {name: doc}},
	})
	return err
}
