package remoteas

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/appraisal"
)

// maxSkew is by how much the service's clock may be off, and how old its answer.
const maxSkew = 2 * time.Minute

// evaluations begins the audience of what a Coffer trustee's Attestation Service
// has judged for a caller.
var evaluations = appraisal.EvaluationAudience("")

// expected is what the answer to one question must repeat.
type expected struct {
	nonce string
	key   []byte   // canonical JWK
	tees  []string // the primary first
	// binding is what the evidence covers beside; nil: nothing.
	binding *kbs.Binding
}

// demanded holds the evidence to the owner's list of devices in initdata, which the
// existing service does not know. That the document is the guest's is for the
// service, and in the end the secret's binding, to say.
func (e *expected) demanded(d *kbs.InitData) error {
	if d == nil {
		return nil
	}
	doc, err := initdata.Parse([]byte(d.Body))
	var list []string
	if err == nil {
		list, err = doc.AdditionalDevices()
	}
	if err != nil {
		return verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
	}
	for _, tee := range list {
		if !slices.Contains(e.tees[1:], verifiers.Canonical(tee)) {
			return verify.Mismatch(appraisal.ReasonDeviceMissing, Component, "device "+tee, "no evidence", "evidence for this session", "additional_devices in initdata")
		}
	}
	return nil
}

// answered holds a token, whose signature was verified, to the question.
func (e *expected) answered(c *ear.Claims, now time.Time) error {
	if d := now.Sub(time.Unix(c.IssuedAt, 0)); d > maxSkew || d < -maxSkew {
		return fmt.Errorf("issued %s ago: not the answer to this question, or one of the clocks is wrong", d)
	}
	if c.Audience != "" && !strings.HasPrefix(c.Audience, evaluations) {
		return fmt.Errorf("for %.128q, not an attestation service's caller", c.Audience)
	}
	if _, ok := c.Submods["cpu0"]; !ok {
		return errors.New("no submodule cpu0")
	}
	seen := map[string]bool{}
	for name, m := range c.Submods {
		tee, err := teeOf(&m)
		if err != nil {
			return fmt.Errorf("submodule %.40q: %w", name, err)
		}
		if name == "cpu0" && tee != e.tees[0] || !slices.Contains(e.tees, tee) {
			return fmt.Errorf("submodule %.40q: of TEE %.40q, asked was %s", name, tee, e.tees)
		}
		if err := e.bound(&m); err != nil {
			return fmt.Errorf("submodule %.40q: %w", name, err)
		}
		seen[tee] = true
	}
	for _, tee := range e.tees {
		if !seen[tee] {
			return fmt.Errorf("nothing about %.40q", tee)
		}
	}
	return nil
}

// bound compares the runtime data that the evidence covered.
func (e *expected) bound(m *ear.Submod) error {
	rt, ok := m.Evidence["runtime_data_claims"].(map[string]any)
	if !ok {
		return errors.New("no runtime data")
	}
	raw, err := json.Marshal(rt["tee-pubkey"])
	if err != nil {
		return err
	}
	if got, err := kbs.Canonicalize(raw); err != nil || !bytes.Equal(got, e.key) {
		return errors.New("another TEE key")
	}
	// What identities are issued by. Devices' runtime data has none; they decide nothing.
	if b, has := rt[kbs.BindingClaim]; has && (e.binding == nil || !sameJSON(b, e.binding)) {
		return errors.New("another binding")
	}
	// Of a nonce that is too long for a token the service leaves the text out.
	if n, ok := rt["nonce"].(string); ok && n == e.nonce || !ok && len(e.nonce) > policy.MaxClaim {
		return nil
	}
	return errors.New("another nonce")
}

// sameJSON compares values as JSON documents.
func sameJSON(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err != nil || err2 != nil {
		return false
	}
	x, err = kbs.Canonicalize(x)
	y, err2 = kbs.Canonicalize(y)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// teeOf gives the wire name of the TEE that a result is about.
func teeOf(m *ear.Submod) (string, error) {
	var names []string
	for _, k := range slices.Sorted(maps.Keys(m.Evidence)) {
		switch k {
		case "report_data", "init_data", "runtime_data_claims", "init_data_claims":
		default:
			names = append(names, verifiers.Canonical(k))
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("claims of %d TEEs", len(names))
	}
	if m.Coffer != nil && m.Coffer.TEE != names[0] {
		return "", fmt.Errorf("says TEE %.40q, and has claims of %.40q", m.Coffer.TEE, names[0])
	}
	return names[0], nil
}

// localizer turns another service's results into what this trustee says itself.
type localizer struct {
	namespace      *trusteeapi.Namespace
	insecureSample bool
}

// localize checks every submodule and completes what the published service does not
// say.
func (l *localizer) localize(c *ear.Claims) error {
	for name, m := range c.Submods {
		tee, err := teeOf(&m)
		if err == nil {
			if m.Coffer == nil {
				m.Coffer, err = l.published(tee, &m)
			} else {
				err = l.coffer(m.Coffer)
			}
		}
		if err != nil {
			return fmt.Errorf("submodule %.40q: %w", name, err)
		}
		m.Coffer.Namespace = l.namespace.Name
		m.Vector = policy.Capped(m.Vector, m.Coffer.Debug, m.Coffer.Simulated)
		m.Status = m.Vector.Status()
		c.Submods[name] = m
	}
	return nil
}

// coffer checks what a Coffer trustee says. Its own tenants judge by policies of
// their own, so that namespaces must be of one name; results of simulated hardware
// stay among themselves.
func (l *localizer) coffer(a *ear.Additions) error {
	switch {
	case a.Namespace != l.namespace.Name:
		return fmt.Errorf("appraised in namespace %.80q, not %s", a.Namespace, l.namespace.Name)
	case a.Simulated != l.namespace.Simulated:
		return fmt.Errorf("simulated is %t, in a namespace where it is %t", a.Simulated, l.namespace.Simulated)
	case len(a.Unbound) > 0:
		return fmt.Errorf("nothing was compared with %s", a.Unbound)
	}
	for _, u := range a.Unproven {
		if !slices.Contains(l.namespace.AllowUnproven, u) {
			return fmt.Errorf("rests on %.80q, which is unproven, and not among what namespace %s allows", u, l.namespace.Name)
		}
	}
	return nil
}

// anchored are the CPUs that the published service anchors in their vendors' roots
// and whose register holds the digest of initdata itself. Of the others it either
// verifies no root (tpm, sample) or does not say what initdata it found.
var anchored = []string{"snp", "tdx", "sgx", "cca"}

// devices of the published service beside a CPU.
var devices = []string{"nvidia"}

// samples are evidence that anybody can make.
var samples = []string{"sample", "sampledevice"}

// published derives what that service does not say from the claims, which the
// evidence's signature covered.
func (l *localizer) published(tee string, m *ear.Submod) (*ear.Additions, error) {
	a := &ear.Additions{TEE: tee}
	switch {
	case l.namespace.Simulated:
		return nil, errors.New("the service does not say that hardware is simulated, so it is of no use to a simulated namespace")
	case slices.Contains(anchored, tee), slices.Contains(devices, tee):
	case slices.Contains(samples, tee) && l.insecureSample:
	default:
		return nil, fmt.Errorf("a service that is not Coffer's does not vouch for %.40q", tee)
	}
	claims, _ := m.Evidence[tee].(map[string]any)
	a.Debug = debug(tee, claims)
	if !slices.Contains(anchored, tee) {
		return a, nil
	}
	var err error
	a.Initdata, err = register(tee, m.Evidence["init_data"])
	return a, err
}

// debug reads whether the host may look in; what is not said counts as yes where
// the TEE always says it.
func debug(tee string, claims map[string]any) bool {
	switch tee {
	case "snp":
		v, ok := claims["policy_debug_allowed"]
		return !ok || v != false && v != "false" && v != "0" && v != json.Number("0") && v != float64(0)
	case "tdx":
		at, _ := claims["td_attributes"].(map[string]any)
		return at["debug"] != false
	case "sgx":
		body, _ := claims["body"].(map[string]any)
		flags, _ := body["attributes.flags"].(string)
		b, err := hex.DecodeString(flags)
		return err != nil || len(b) != 8 || b[0]&sgxDebug != 0
	case "cca":
		platform, _ := claims["platform"].(map[string]any)
		state, err := json.Number(fmt.Sprint(platform["cca-platform-lifecycle"])).Float64()
		return err != nil || state < ccaSecured || state >= ccaRecoverableDebug
	}
	return false
}

// The DEBUG bit of an enclave's attributes (little endian), and of the life cycle of a
// CCA platform the states in which it is not open to a debugger.
const (
	sgxDebug            = 0x02
	ccaSecured          = 0x3000
	ccaRecoverableDebug = 0x5000
)

// register reads the digest of initdata in the TEE's register; nil: it is empty.
func register(tee string, claim any) (*ear.Digest, error) {
	if claim == nil {
		return nil, nil
	}
	text, ok := claim.(string)
	if !ok {
		return nil, errors.New("init_data is no text")
	}
	alg, err := initdata.AlgorithmFor(tee)
	if err != nil {
		return nil, err
	}
	none, err := initdata.Digest(alg, nil)
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) < len(none) {
		return nil, fmt.Errorf("init_data is not the hex of %d bytes or more", len(none))
	}
	if slices.ContainsFunc(b[len(none):], func(x byte) bool { return x != 0 }) {
		return nil, fmt.Errorf("init_data is longer than a digest by %s", alg)
	}
	if b = b[:len(none)]; !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) {
		return nil, nil
	}
	return &ear.Digest{Algorithm: string(alg), Hex: hex.EncodeToString(b)}, nil
}
