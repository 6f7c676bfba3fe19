package trusteeapi

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// ResourcePolicy is one version of a policy in Rego that decides, beside the
// bindings, what may be done with secrets. It can only narrow: whatever it allows
// needs a binding and a good attestation result all the same.
type ResourcePolicy struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"` // counts up, also after a deletion
	// Resources is what it is asked about: "*", or a repository, repository/type or
	// repository/type/tag.
	Resources string `json:"resources"`
	// Methods are those it is asked about: GET (a guest reads), PUT and DELETE (an
	// administrator changes).
	Methods    []string  `json:"methods"`
	Digest     string    `json:"digest"` // "sha256:<hex>" of the text
	Text       string    `json:"text,omitempty"`
	Actor      string    `json:"actor,omitempty"`
	Registered time.Time `json:"registered"`
}

// Methods that a resource policy can be asked about.
const (
	MethodGet    = "GET"
	MethodPut    = "PUT"
	MethodDelete = "DELETE"
)

var (
	selectorRE   = regexp.MustCompile(`^(\*|[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}){0,2})$`)
	policyNameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
)

// Check reports what makes a policy's name or selection unusable.
func (p *ResourcePolicy) Check() error {
	switch {
	case !policyNameRE.MatchString(p.Name):
		return fmt.Errorf("resource policy: name %.80q is not of a-z 0-9 . _ -, at most 63 of them", p.Name)
	case !selectorRE.MatchString(p.Resources):
		return fmt.Errorf("resource policy: resources %.80q is neither * nor repository[/type[/tag]]", p.Resources)
	case len(p.Methods) == 0:
		return errors.New("resource policy: no method")
	}
	for i, m := range p.Methods {
		if m != MethodGet && m != MethodPut && m != MethodDelete || slices.Contains(p.Methods[:i], m) {
			return fmt.Errorf("resource policy: method %.20q is not one of GET, PUT, DELETE, each once", m)
		}
	}
	return nil
}

// Kinds of a PolicyTest.
const (
	TestAttestation = "attestation"
	TestResource    = "resource"
)

// PolicyTest asks what a policy would say of attestations that are recorded. It
// changes nothing.
type PolicyTest struct {
	Kind string `json:"kind"`
	Name string `json:"name"` // of an attestation policy: <id>_<class>
	Text string `json:"text"`
	// Resource and Method are what a resource policy is asked about.
	Resource string `json:"resource,omitempty"`
	Method   string `json:"method,omitempty"` // "" is GET
	// Records names attestations; none: the newest Limit ones.
	Records []string `json:"records,omitempty"`
	Limit   int      `json:"limit,omitempty"`
}

// PolicyVerdict is what a policy would say of one recorded attestation.
type PolicyVerdict struct {
	Record string    `json:"record"`
	Time   time.Time `json:"time"`
	Submod string    `json:"submod,omitempty"`
	TEE    string    `json:"tee,omitempty"`
	// Before is the status that was recorded, After what the policy gives; of a
	// resource policy After is "allowed" or "denied".
	Before string `json:"before,omitempty"`
	After  string `json:"after"`
	// Findings say why claims are not affirmed.
	Findings []Finding `json:"findings,omitempty"`
	// Incomplete: claims too large for a token are recorded by their digest only, so
	// that a policy that reads them says something else.
	Incomplete bool   `json:"incomplete,omitempty"`
	Error      string `json:"error,omitempty"`
}

// AppraisalPolicy is the body that chooses a namespace's appraisal policies.
type AppraisalPolicy struct {
	ID string `json:"id"`
}
