// Package verifier checks Arm CCA evidence (wire name "cca") against the trust
// anchors and platform reference values that it is given. tee/cca/SPEC.md lists
// what is checked, in order.
//
// Invariants: there is no vendor root for CCA platforms, so a platform without a
// trust anchor, and one whose firmware no reference value explains, is denied.
// The verdict is a pure function of the input and the configuration.
//
// Trust zone: trustee and owner.
package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/internal/simplatform"
	"github.com/cofferproject/coffer/tee/cca/token"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "cca-verifier"

// Unproven2023 must be in Config.AllowUnproven for tokens of the profiles of
// 2023, for which there is no outside vector.
const Unproven2023 = "cca-profile-2023"

// Reasons of this verifier; the shared ones are in package verify.
const (
	ReasonMalformed         denial.Reason = "cca-evidence-malformed"
	ReasonAlgorithm         denial.Reason = "cca-algorithm"
	ReasonPlatformUnknown   denial.Reason = "cca-platform-unknown"
	ReasonPlatformSignature denial.Reason = "cca-platform-signature"
	ReasonImplementation    denial.Reason = "cca-implementation-mismatch"
	ReasonRAKUnbound        denial.Reason = "cca-rak-unbound"
	ReasonRealmSignature    denial.Reason = "cca-realm-signature"
	ReasonLifecycle         denial.Reason = "cca-lifecycle"
	ReasonNoReference       denial.Reason = "cca-no-reference-values"
	ReasonSoftware          denial.Reason = "cca-platform-software"
)

// Config is what the verifier may believe.
type Config struct {
	verify.Config
	// TrustAnchors are the CPAKs of production platforms (ParseTrustAnchors).
	TrustAnchors []TrustAnchor
	// References explain the firmware of production platforms (ParseReferences).
	References *References
}

// Verifier implements verify.Verifier.
type Verifier struct {
	cfg       Config
	anchors   map[string]*TrustAnchor // by instance id
	platforms []Reference
	realms    []RealmReference
}

// New makes a verifier. Without trust anchors or references it denies all.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg, anchors: map[string]*TrustAnchor{}}
	if cfg.Kind == verify.InsecureSimulated {
		if len(cfg.TrustAnchors) > 0 || cfg.References != nil {
			return nil, errors.New("cca verifier: production trust anchors or reference values in simulation")
		}
		return v, v.simulated()
	}
	if cfg.References != nil {
		v.platforms, v.realms = cfg.References.Platforms, cfg.References.Realms
	}
	for i := range cfg.TrustAnchors {
		a := &cfg.TrustAnchors[i]
		if a.Key == nil || a.Key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("cca verifier: trust anchor %d: no key on P-384", i)
		}
		if v.anchors[string(a.InstanceID)] != nil {
			return nil, fmt.Errorf("cca verifier: two trust anchors for instance %x", a.InstanceID)
		}
		v.anchors[string(a.InstanceID)] = a
	}
	return v, nil
}

// simulated takes the machines' roots as CPAKs: real platforms have no
// certificate chain either.
func (v *Verifier) simulated() error {
	for _, root := range v.cfg.SimulatedRoots {
		key, ok := root.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P384() {
			continue // another TEE's machine
		}
		id, err := simplatform.InstanceID(key)
		if err != nil {
			return fmt.Errorf("cca verifier: simulated root: %w", err)
		}
		v.anchors[string(id)] = &TrustAnchor{Key: key, ImplementationID: simplatform.ImplementationID[:], InstanceID: id}
	}
	sim := Reference{ImplementationID: simplatform.ImplementationID[:], Config: simplatform.Config}
	for _, c := range simplatform.Components() {
		sim.Components = append(sim.Components, ReferenceComponent{Type: c.Type, Measurement: c.Measurement, SignerID: c.SignerID})
	}
	v.platforms = []Reference{sim}
	return nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := cca.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "evidence", err)
	}
	t, err := token.Parse(e.Token)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "token", err)
	}
	if err := v.kind(e, t); err != nil {
		return nil, err
	}
	r := &verify.Result{
		TEE: cca.WireName, Class: verify.ClassCPU, Claims: claims(t),
		Simulated: v.cfg.Kind == verify.InsecureSimulated, SimulationNote: e.Simulation,
	}
	if t.Platform.Profile != token.ProfileSSD || t.Realm.Profile != "" {
		if err := v.cfg.Unproven(Component, Unproven2023); err != nil {
			return nil, err
		}
		r.Unproven = append(r.Unproven, Unproven2023)
	}
	for _, step := range []func(*token.Token, *verify.Result) error{v.platformKey, realmKey, v.platform} {
		if err := step(t, r); err != nil {
			return nil, err
		}
	}
	if err := verify.CheckReportData(Component, t.Realm.Challenge, in, r); err != nil {
		return nil, err
	}
	if err := verify.CheckInitdata(Component, cca.WireName, "realm personalization value", t.Realm.RPV, in, r); err != nil {
		return nil, err
	}
	v.realm(t, r)
	return []*verify.Result{r}, nil
}

// kind keeps simulated and real evidence apart.
func (v *Verifier) kind(e *cca.Evidence, t *token.Token) error {
	simulated := bytes.Equal(t.Platform.ImplementationID, simplatform.ImplementationID[:])
	if v.cfg.Kind == verify.Production {
		if simulated || e.Simulation != "" {
			return verify.Mismatch(verify.ReasonSimulated, Component, "simulation note", "simulated: "+e.Simulation, "none", "production namespace")
		}
		return nil
	}
	if !simulated || e.Simulation == "" {
		return verify.Mismatch(verify.ReasonNotSimulated, Component, "simulation note", fmt.Sprintf("%q, implementation %x", e.Simulation, t.Platform.ImplementationID), "a note and the simulator's implementation id", "simulated namespace")
	}
	return nil
}

func (v *Verifier) platformKey(t *token.Token, r *verify.Result) error {
	id := hex.EncodeToString(t.Platform.InstanceID)
	a := v.anchors[string(t.Platform.InstanceID)]
	if a == nil {
		return verify.Mismatch(ReasonPlatformUnknown, Component, "platform instance id", id, fmt.Sprintf("one of %d trust anchors", len(v.anchors)), "trust anchor store")
	}
	if err := t.VerifyPlatform(a.Key); err != nil {
		return verify.Deny(signatureReason(err, ReasonPlatformSignature), Component, "platform token signature", err)
	}
	if !bytes.Equal(a.ImplementationID, t.Platform.ImplementationID) {
		return verify.Mismatch(ReasonImplementation, Component, "platform implementation id", hex.EncodeToString(t.Platform.ImplementationID), hex.EncodeToString(a.ImplementationID), "trust anchor store")
	}
	r.Checked("platform token signature", "instance "+id, "CPAK of the trust anchor store")
	return nil
}

// realmKey checks that the platform vouches for the realm's key, then that this
// key signed the realm token.
func realmKey(t *token.Token, r *verify.Result) error {
	if want := t.RAKHash(); !bytes.Equal(want, t.Platform.Challenge) {
		return verify.Mismatch(ReasonRAKUnbound, Component, "platform challenge", hex.EncodeToString(t.Platform.Challenge), hex.EncodeToString(want), t.Realm.PublicKeyHash+" of the realm's key")
	}
	if err := t.VerifyRealm(); err != nil {
		return verify.Deny(signatureReason(err, ReasonRealmSignature), Component, "realm token signature", err)
	}
	r.Checked("realm attestation key", hex.EncodeToString(t.Platform.Challenge), "platform token's challenge")
	r.Checked("realm token signature", "", "realm attestation key")
	return nil
}

func signatureReason(err error, reason denial.Reason) denial.Reason {
	if errors.Is(err, token.ErrAlgorithm) {
		return ReasonAlgorithm
	}
	return reason
}

// platform appraises the platform's claims; what it finds is a denial or a
// claim, never dropped.
func (v *Verifier) platform(t *token.Token, r *verify.Result) error {
	name, ok, debug := lifecycle(*t.Platform.Lifecycle)
	if !ok {
		return verify.Mismatch(ReasonLifecycle, Component, "platform lifecycle", fmt.Sprintf("%#04x (%s)", *t.Platform.Lifecycle, name), "0x3000 to 0x30ff (secured)", "CCA security model")
	}
	r.Debug = debug
	r.Checked("platform lifecycle", fmt.Sprintf("%#04x", *t.Platform.Lifecycle), name)
	var first error
	for i := range v.platforms {
		ref := &v.platforms[i]
		if !bytes.Equal(ref.ImplementationID, t.Platform.ImplementationID) {
			continue
		}
		claim, measured, expected := ref.match(&t.Platform)
		if claim == "" {
			r.Checked("platform software", fmt.Sprintf("%d components", len(t.Platform.Components)), "reference value store")
			r.Claims["appraisal"] = map[string]any{"platform": map[string]any{"lifecycle": name, "software": "matched", "configuration": "matched", "instance": "trust anchor"}}
			return nil
		}
		if first == nil {
			first = verify.Mismatch(ReasonSoftware, Component, claim, measured, expected, "reference value store")
		}
	}
	if first == nil {
		first = verify.Mismatch(ReasonNoReference, Component, "platform implementation id", hex.EncodeToString(t.Platform.ImplementationID), "an implementation with reference values", "reference value store")
	}
	return first
}

// realm says whether a realm reference value explains the realm; a policy
// decides what that is worth, since it may hold the values itself.
func (v *Verifier) realm(t *token.Token, r *verify.Result) {
	state := "no reference values"
	for i := range v.realms {
		if state = "not matched"; v.realms[i].match(&t.Realm) {
			state = "matched"
			r.Checked("realm measurements", hex.EncodeToString(t.Realm.RIM), "reference value store")
			break
		}
	}
	if a, ok := r.Claims["appraisal"].(map[string]any); ok {
		a["realm"] = map[string]any{"measurements": state, "key": "bound to the platform token"}
	}
}
