// Package measure says what TEE hardware will measure of a launch, for people and
// for the trustee: a table, and reference values under the names that the default
// policies query. The digests themselves are computed by tee/*/measure. And the
// way back: Explain finds the launch that a measurement is of, and the inputs in
// which it is not the expected one.
//
// Invariants: nothing is booted or fetched; files are bounded; a launch that cannot
// be measured is an error, never a partial result; no launch explains a measurement
// unless it gives exactly that.
//
// Trust zone: owner.
package measure

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
)

// Result is what will be measured of one launch.
type Result struct {
	TEE  launch.TEE `json:"tee"`
	Rows []Row      `json:"rows"`
	// Values are reference values by the names of the default policies.
	Values map[string]any `json:"values,omitempty"`
	// Sets are TPM event sets.
	Sets  []refvalue.Set    `json:"sets,omitempty"`
	Files map[string]string `json:"files"` // what was measured: name to SHA-256
	// Debug says that a debug image was measured; whoever chose the image sets it.
	Debug bool     `json:"debug,omitempty"`
	Notes []string `json:"notes,omitempty"`
	// Launch is what the values were computed from.
	Launch *launch.Inputs `json:"launch"`

	signer map[string]any // reference values of the enclave's signer (AcceptSigner)
}

// Row is one measured field.
type Row struct {
	Field string `json:"field"` // as the claim is called
	Value string `json:"value"` // hex
	Of    string `json:"of"`    // what goes into it
}

// calculator computes one TEE's part.
type calculator func(spec *launch.Spec, in *inputs, r *Result) error

var calculators = map[launch.TEE]calculator{}

// TEEs lists what can be measured.
func TEEs() []string {
	var out []string
	for t := range calculators {
		out = append(out, string(t))
	}
	slices.Sort(out)
	return out
}

// Launch measures a launch.
func Launch(spec *launch.Spec) (*Result, error) {
	calc := calculators[spec.TEE]
	if calc == nil {
		return nil, fmt.Errorf("measuring: nothing is known of TEE %q, only of %s", spec.TEE, strings.Join(TEEs(), ", "))
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	in, err := read(spec)
	if err != nil {
		return nil, err
	}
	r := &Result{TEE: spec.TEE, Values: map[string]any{}, Files: in.digests, Launch: in.of(spec)}
	if err := calc(spec, in, r); err != nil {
		return nil, fmt.Errorf("measuring %s: %w", spec.TEE, err)
	}
	return r, r.initdata(spec)
}

// registers names where a TEE binds initdata, and how long the register is.
var registers = map[string]struct {
	name string
	size int
}{
	"snp": {"HOST_DATA", 32}, "tdx": {"MRCONFIGID", 48}, "cca": {"RPV", 64}, "sgx": {"CONFIGID", 64},
	"nitro": {"PCR 16, extended with", 48}, "tpm": {"PCR 8, extended with", 32}, "az-snp-vtpm": {"PCR 8, extended with", 32}, "az-tdx-vtpm": {"PCR 8, extended with", 32},
}

// initdata adds the register of the document.
func (r *Result) initdata(spec *launch.Spec) error {
	reg, ok := registers[spec.TEE.Wire()]
	if !ok || spec.Initdata == nil {
		return nil
	}
	alg, err := initdata.AlgorithmFor(spec.TEE.Wire())
	if err != nil {
		return err
	}
	sum, err := initdata.Digest(alg, spec.Initdata)
	if err != nil {
		return err
	}
	r.Rows = append(r.Rows, Row{"init_data", hex.EncodeToString(initdata.Fit(sum, reg.size)), reg.name + ": " + string(alg) + " of initdata"})
	return nil
}

func (r *Result) row(field string, value []byte, of string) {
	r.Rows = append(r.Rows, Row{field, hex.EncodeToString(value), of})
}

// accept adds to the list of a reference value.
func (r *Result) accept(name string, values ...any) {
	l, _ := r.Values[name].([]any)
	r.Values[name] = append(l, values...)
}

// Bundle gives the reference values; expires zero: they never cease to count.
func (r *Result) Bundle(tool string, expires time.Time) (*refvalue.Bundle, error) {
	b := &refvalue.Bundle{
		Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: tool, Files: r.Files, Launch: r.Launch},
		Values: r.Values, Debug: r.Debug, Expires: expires.UTC().Truncate(time.Second),
	}
	for _, s := range r.Sets {
		if r.Debug && !refvalue.DebugImage(s.Image) {
			s.Image += "-debug" // as the platform calls its debug images
		}
		b.Sets = append(b.Sets, s)
	}
	if expires.IsZero() {
		b.Expires = time.Time{}
	}
	return b, b.Validate()
}
