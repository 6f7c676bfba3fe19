// Package evidence judges an evidence file offline, with the verifiers and
// policies that the trustee uses: `coffer verify`.
//
// Invariants: no network; what was not checked is said, by name, in the report;
// every skip is spelled Insecure.... A report is no attestation: nobody was asked
// for a fresh nonce.
//
// Trust zone: owner.
package evidence

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
)

// MaxSize is the largest evidence file.
const MaxSize = 16 << 20

// Options say what to judge by.
type Options struct {
	// TEE is the wire name; "": by the shape of the evidence.
	TEE string
	// Initdata is the plain document; nil: the register is taken as it is.
	Initdata []byte
	// ReportData is what the evidence must be bound to; nil: not checked.
	ReportData   []byte
	RequestExtra []byte // Request.extra-params of the session (TPM)
	Collateral   collateral.Source
	References   []*refvalue.Bundle
	// ReferenceNames are what References are called for people; may be nil.
	ReferenceNames []string
	Values         map[string]any // named values beside those of References
	// Policy is the text of a policy; "": the embedded one of the device's class.
	Policy        string
	Now           time.Time
	AllowUnproven []string
	// SimulatedRoots make the appraisal one of a simulated namespace.
	SimulatedRoots []*x509.Certificate
	EKRoots        []*x509.Certificate // TPM, production
	Anchors        map[string]map[string][]byte
	// Platform, of a launch that is not affirmed, gives the guest images and the
	// firmware that may have been launched; nil: no search among them.
	Platform func() *platform.Platform

	InsecureSkipRevocation, InsecureExpiredCollateral, InsecureUnboundReport, InsecureSample bool
}

// Report is what the file was found to prove.
type Report struct {
	TEE     string    `json:"tee"`
	Time    time.Time `json:"time"` // by which it was judged
	Status  ear.Tier  `json:"status"`
	Devices []Device  `json:"devices,omitempty"`
	// NotChecked lists in words what the options left out.
	NotChecked []string       `json:"not_checked,omitempty"`
	Denial     *denial.Denial `json:"denial,omitempty"`
}

// Device is one device of the evidence.
type Device struct {
	Submod         string             `json:"submod"`
	TEE            string             `json:"tee"`
	Status         ear.Tier           `json:"status"`
	Vector         map[string]int     `json:"trustworthiness_vector"`
	Policy         string             `json:"policy"`
	PolicyDigest   string             `json:"policy_digest"`
	Findings       []policy.Finding   `json:"findings,omitempty"`
	Checks         []verify.Check     `json:"checks"`
	Claims         map[string]any     `json:"claims"`
	Initdata       string             `json:"initdata,omitempty"`
	Simulated      bool               `json:"simulated"`
	SimulationNote string             `json:"simulation_note,omitempty"`
	Debug          bool               `json:"debug"`
	Unproven       []string           `json:"unproven,omitempty"`
	Extensions     []policy.Extension `json:"extensions,omitempty"`
	// Launch says which input of the launch is not the expected one, where a
	// register of it was not affirmed.
	Launch *measure.Explanation `json:"launch,omitempty"`
}

// Judge verifies and appraises. A refusal is in the report; an error is a fault
// of what the caller gave.
func Judge(ctx context.Context, file []byte, o *Options) (*Report, error) {
	if o.Now.IsZero() {
		return nil, errors.New("judging evidence: no time given")
	}
	tee, doc, err := recognise(o.TEE, file)
	if err != nil {
		return nil, err
	}
	r := &Report{TEE: tee, Time: o.Now.UTC(), NotChecked: o.notChecked(), Status: ear.None}
	v, err := o.verifier(tee)
	if err == nil {
		err = r.judge(ctx, v, doc, o)
	}
	if d, ok := denial.As(err); ok {
		r.Denial, r.Status, r.Devices = d, ear.Contraindicated, nil
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (o *Options) notChecked() []string {
	var out []string
	if o.ReportData == nil {
		out = append(out, "FRESHNESS: no report data was given, so the evidence may be a recording, and of any TEE key")
	}
	if o.Initdata == nil {
		out = append(out, "initdata: no document was given, so the register is shown and judged by nobody")
	}
	if o.InsecureSkipRevocation {
		out = append(out, "revocation: --insecure-skip-revocation")
	}
	if o.InsecureExpiredCollateral {
		out = append(out, "currency of collateral: --insecure-expired-collateral")
	}
	if o.InsecureUnboundReport {
		out = append(out, "the hardware report is of this boot: --insecure-unbound-report")
	}
	if o.InsecureSample {
		out = append(out, "anything at all, if this is a sample: --insecure-sample")
	}
	return out
}

func (o *Options) verifier(tee string) (verify.Verifier, error) {
	t := &verifiers.Trust{
		Config: verify.Config{
			Kind: verify.Production, AllowUnproven: o.AllowUnproven, Collateral: o.Collateral,
			InsecureSkipRevocation: o.InsecureSkipRevocation, InsecureExpiredCollateral: o.InsecureExpiredCollateral,
		},
		Anchors: o.Anchors,
		// The key has no use: nobody was challenged with it.
		TPM: tpmverifier.Trust{CredentialKey: make([]byte, 32), EKRoots: o.EKRoots, References: o.References},
	}
	if _, err := rand.Read(t.TPM.CredentialKey); err != nil {
		return nil, err
	}
	t.Azure.InsecureAcceptUnboundReport = o.InsecureUnboundReport
	if len(o.SimulatedRoots) > 0 {
		t.Kind, t.SimulatedRoots = verify.InsecureSimulated, o.SimulatedRoots
	}
	if o.InsecureSample {
		return verifiers.NewInsecureSample(tee, t)
	}
	return verifiers.New(tee, t)
}

func (r *Report) judge(ctx context.Context, v verify.Verifier, doc json.RawMessage, o *Options) error {
	values, err := refvalue.Merge(o.References...)
	if err != nil {
		return err
	}
	for n, x := range o.Values {
		if _, dup := values[n]; dup {
			return fmt.Errorf("reference value %.80q is given twice", n)
		}
		values[n] = x
	}
	refs, err := policy.NewReferences(values, nil)
	if err != nil {
		return err
	}
	results, err := v.Verify(&verify.Input{
		Evidence: doc, RequestExtra: o.RequestExtra, ReportData: o.ReportData, InsecureSkipReportData: o.ReportData == nil,
		Initdata: o.Initdata, InsecureSkipInitdata: o.Initdata == nil, Now: o.Now,
	})
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, res := range results {
		p, err := o.policy(res.Class)
		if err != nil {
			return err
		}
		a, err := p.Appraise(ctx, res, nil, refs, o.Now)
		if err != nil {
			return err
		}
		r.Devices = append(r.Devices, Device{
			Submod: fmt.Sprintf("%s%d", res.Class, count[res.Class]), TEE: res.TEE, Status: a.Vector.Status(), Vector: a.Vector.Map(),
			Policy: p.ID(), PolicyDigest: p.Digest(), Findings: a.Findings, Checks: res.Checks, Claims: res.Claims, Initdata: res.Initdata.String(),
			Simulated: res.Simulated, SimulationNote: res.SimulationNote, Debug: res.Debug, Unproven: res.Unproven, Extensions: a.Extensions,
			Launch: o.explain(ctx, res, a.Findings),
		})
		count[res.Class]++
	}
	r.Status = worst(r.Devices)
	return nil
}

// explainTime bounds the search for the launch that was measured.
const explainTime = 30 * time.Second

// explain says which input of a launch is behind findings; nil where none is.
func (o *Options) explain(ctx context.Context, res *verify.Result, findings []policy.Finding) *measure.Explanation {
	if !slices.ContainsFunc(findings, func(f policy.Finding) bool { return measure.LaunchValue(res.TEE, f.Reference) }) {
		return nil
	}
	q := &measure.Question{TEE: res.TEE, Claims: res.Claims}
	for i, b := range o.References {
		if l := b.Provenance.Launch; l != nil && launch.TEE(l.TEE).Wire() == res.TEE {
			q.References = append(q.References, measure.Reference{Bundle: o.name(i), Launch: l, Values: b.Values})
		}
	}
	if len(q.References) == 0 {
		return nil // nothing is known of any launch
	}
	if o.Platform != nil {
		q.Platform = o.Platform()
	}
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	return measure.Explain(ctx, q)
}

// name is what a bundle is called: its file, or its place among those given.
func (o *Options) name(i int) string {
	if i < len(o.ReferenceNames) {
		return o.ReferenceNames[i]
	}
	return fmt.Sprint(i + 1)
}

func (o *Options) policy(class string) (*policy.Policy, error) {
	if o.Policy != "" {
		return policy.Compile("given", o.Policy)
	}
	return policy.Default(class)
}

func worst(devices []Device) ear.Tier {
	order := []ear.Tier{ear.Affirming, ear.None, ear.Warning, ear.Contraindicated}
	at := 0
	for _, d := range devices {
		at = max(at, slices.Index(order, d.Status))
	}
	return order[at]
}

// Affirmed reports whether all devices are affirmed.
func (r *Report) Affirmed() bool {
	return r.Denial == nil && len(r.Devices) > 0 && r.Status == ear.Affirming
}

// ClaimNames gives the names of a device's claims, sorted.
func (d *Device) ClaimNames() []string { return slices.Sorted(maps.Keys(d.Claims)) }
