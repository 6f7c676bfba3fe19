// Package trusteeapi is the contract of the trustee's administration API, an
// addition of Coffer's under /coffer/v1: what the owner's tools send and get.
// SPEC.md lists the paths.
//
// Invariants: no answer carries the content of a secret; every request is
// authenticated by a short-lived token of its own (token.go); a namespace is
// simulated or not from its creation on.
//
// Trust zone: owner and trustee.
package trusteeapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/launch"
)

// PathPrefix is the prefix of all paths, relative to the server's URL.
const PathPrefix = "/coffer/v1"

// DefaultNamespace is the namespace of paths that name none; it is production.
const DefaultNamespace = "default"

var namespaceRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckNamespace reports whether a name can be a namespace's.
func CheckNamespace(name string) error {
	if !namespaceRE.MatchString(name) {
		return fmt.Errorf("namespace %.80q is not a DNS label", name)
	}
	return nil
}

// Namespace keeps owners, secrets, reference values and roots apart.
type Namespace struct {
	Name string `json:"name"`
	// Simulated: evidence of simulated TEEs, which prove nothing, is appraised
	// here and only here.
	Simulated bool `json:"simulated"`
	// InsecureAllowDebug lets guests of a debug image have secrets.
	InsecureAllowDebug bool `json:"insecure_allow_debug,omitempty"`
	// AllowUnproven names verifiers and versions ("nitro", "snp-report-v5") that
	// no outside vector has shown to be right and that count all the same; tokens
	// repeat the names.
	AllowUnproven []string `json:"allow_unproven,omitempty"`
	// AppraisalPolicy is the id of the policies that judge evidence: <id>_cpu,
	// <id>_gpu, ...; "" is "default".
	AppraisalPolicy string `json:"appraisal_policy,omitempty"`
	// RequireChannelBinding refuses evidence that does not cover the connection that
	// brings it.
	RequireChannelBinding bool `json:"require_channel_binding,omitempty"`
	// Quotas are limits of this namespace in the place of the trustee's for each
	// (docs/trustee.md), by name.
	Quotas map[string]int `json:"quotas,omitempty"`
	// TrustDomain is that of the namespace's SPIFFE identities; "": it gives none.
	TrustDomain string    `json:"trust_domain,omitempty"`
	Created     time.Time `json:"created"`
}

// ChannelBinding is the body that says whether a namespace demands it.
type ChannelBinding struct {
	Required bool `json:"required"`
}

// Quotas is the body that sets a namespace's quotas, all of them: those that are not
// there are the trustee's limits again.
type Quotas struct {
	Quotas map[string]int `json:"quotas"`
}

// NamespaceDeletion is both steps of deleting a namespace: asked for without Confirm, the
// answer has it, with what the namespace holds; asked for with it, and with DestroySecrets
// where there are secrets, the namespace goes for good.
type NamespaceDeletion struct {
	Namespace      string    `json:"namespace,omitempty"`
	Secrets        int       `json:"secrets,omitempty"`
	Confirm        string    `json:"confirm,omitempty"`
	Expires        time.Time `json:"expires,omitzero"` // of Confirm
	DestroySecrets bool      `json:"destroy_secrets,omitempty"`
}

// AllowUnproven is the body that replaces a namespace's list.
type AllowUnproven struct {
	AllowUnproven []string `json:"allow_unproven"`
}

// OwnerKey is a key whose seals the namespace accepts.
type OwnerKey struct {
	ID        string    `json:"id"` // seal.KeyID
	Name      string    `json:"name"`
	PublicKey string    `json:"public_key"` // PEM, SubjectPublicKeyInfo
	Created   time.Time `json:"created"`
}

// SealInfo is a registered seal.
type SealInfo struct {
	ID         string            `json:"id"`
	KeyID      string            `json:"key_id"`
	Pod        string            `json:"pod"` // namespace/name
	Initdata   map[string]string `json:"initdata"`
	Policy     string            `json:"policy"`
	Registered time.Time         `json:"registered"`
	JWS        string            `json:"jws,omitempty"` // only when one seal is asked for
}

// Binding says which TEEs may have a resource: those whose verified initdata
// digest it lists, or that a seal it lists names.
type Binding struct {
	Seals    []string `json:"seals,omitempty"`    // seal ids
	Initdata []string `json:"initdata,omitempty"` // "<algorithm>:<hex>"
}

// Resource is the metadata of a secret.
type Resource struct {
	Name     string    `json:"name"` // repository/type/tag
	Version  uint64    `json:"version"`
	Size     int       `json:"size"`
	Created  time.Time `json:"created"`  // of the first version
	Modified time.Time `json:"modified"` // of this version
	// Expires, Deleted and Labels are the newest version's.
	Expires time.Time         `json:"expires,omitzero"`
	Deleted time.Time         `json:"deleted,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Binding *Binding          `json:"binding,omitempty"`
}

// ReferenceValues describes a registered bundle.
type ReferenceValues struct {
	ID         string          `json:"id"` // hex SHA-256 of the document
	Name       string          `json:"name"`
	Format     string          `json:"format,omitempty"` // "bundle", "corim" or "swid"; "": from before there were others than bundles
	Sets       int             `json:"sets"`
	Values     int             `json:"values,omitempty"`    // named values
	SignedBy   string          `json:"signed_by,omitempty"` // owner's key, or "x509:" and the SHA-256 of a vendor's, if there is a signature
	Expires    time.Time       `json:"expires,omitzero"`
	Provenance json.RawMessage `json:"provenance"` // as the document states it
	Actor      string          `json:"actor"`      // credential that registered it
	Registered time.Time       `json:"registered"`
}

// Policy is an appraisal policy in Rego, named <id>_<class>.
type Policy struct {
	Name       string    `json:"name"`
	Version    uint64    `json:"version,omitempty"` // counts up; 0: from before there were versions, or embedded
	Digest     string    `json:"digest"`            // "sha256:<hex>" of the text, as in tokens
	Text       string    `json:"text,omitempty"`
	Embedded   bool      `json:"embedded,omitempty"` // the built-in default
	Actor      string    `json:"actor,omitempty"`
	Registered time.Time `json:"registered,omitzero"`
}

// Anchor is a document that a TEE's verifier needs in production beside the
// vendors' embedded roots, such as the keys of CCA platforms.
type Anchor struct {
	TEE        string    `json:"tee"`
	Name       string    `json:"name"`
	SHA256     string    `json:"sha256"`
	Size       int       `json:"size"`
	Actor      string    `json:"actor"`
	Registered time.Time `json:"registered"`
}

// Collateral describes one item that verifiers may use.
type Collateral struct {
	Origin  string    `json:"origin"`
	SHA256  string    `json:"sha256"`
	Size    int       `json:"size"`
	Fetched time.Time `json:"fetched"`
}

// CollateralImport is the answer to an import.
type CollateralImport struct {
	Taken int `json:"taken"`
	// Older items are not taken in the place of newer ones.
	Older int `json:"older"`
}

// EKRoot is a certificate: in production of TPM endorsement keys, a root or an
// intermediate; in a simulated namespace a root of simulated hardware.
type EKRoot struct {
	ID           string    `json:"id"`            // hex SHA-256 of the SubjectPublicKeyInfo, and "." and TEE if that is set
	TEE          string    `json:"tee,omitempty"` // simulated only: the one TEE that it counts for
	Subject      string    `json:"subject"`
	Certificate  string    `json:"certificate"` // PEM
	Intermediate bool      `json:"intermediate,omitempty"`
	Registered   time.Time `json:"registered"`
}

// EnrolledAK is a TPM attestation key that needs no endorsement key.
type EnrolledAK struct {
	Name       string    `json:"name"` // TPM name, hex: 000b and the SHA-256 of the public area
	Note       string    `json:"note,omitempty"`
	Kind       string    `json:"kind,omitempty"` // "production": of which kind of namespace it is a key, for good
	Registered time.Time `json:"registered"`
}

// Outcomes of a Record.
const (
	OutcomeGranted = "granted"
	OutcomeDenied  = "denied"
)

// AuditLog is one of the logs that a trustee's replicas have written.
type AuditLog struct {
	ID      string    `json:"id"`             // hash of its first record
	Host    string    `json:"host,omitempty"` // of the replica
	Began   time.Time `json:"began,omitzero"` // when that was started
	Records uint64    `json:"records"`
	Own     bool      `json:"own,omitempty"` // of the replica that answers
	// Removed, if set, says that only the signed end of the log is kept.
	Removed *auditlog.Removal `json:"removed,omitempty"`
}

// AuditRemoval asks for the removal of an audit log.
type AuditRemoval struct {
	// SHA256 is that of the log's lines, each with its newline, in hex: whoever asks has
	// them.
	SHA256 string `json:"sha256"`
}

// Record tells one decision in full: what `coffer explain` shows.
type Record struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	Kind      string    `json:"kind"` // "auth", "attest", "release"
	Outcome   string    `json:"outcome"`
	TEE       string    `json:"tee,omitempty"`
	Simulated bool      `json:"simulated,omitempty"`
	Peer      string    `json:"peer,omitempty"` // network address, as far as it can be believed
	Resource  string    `json:"resource,omitempty"`
	// Attestation is the record of the attestation whose result a request for a
	// secret carried.
	Attestation string         `json:"attestation,omitempty"`
	Initdata    string         `json:"initdata,omitempty"` // "<algorithm>:<hex>", verified
	Status      string         `json:"status,omitempty"`   // EAR status
	Vector      map[string]int `json:"trustworthiness_vector,omitempty"`
	// Appraisals tell what was checked and what the policies said, device by
	// device.
	Appraisals []Appraisal `json:"appraisals,omitempty"`
	// Claims are the verified claims of a granted attestation.
	Claims map[string]any `json:"claims,omitempty"`
	// Denial is the whole denial, with measured and expected values.
	Denial *denial.Denial `json:"denial,omitempty"`
	// Audited is the number of the audit record; 0 where denials came faster
	// than the audit log takes them.
	Audited uint64 `json:"audited,omitempty"`
}

// Appraisal is what one device's evidence was found to be worth.
type Appraisal struct {
	Submod string `json:"submod"` // "cpu0"
	TEE    string `json:"tee"`
	Policy string `json:"policy"` // name
	Digest string `json:"policy_digest"`
	Status string `json:"status"`
	// Vector, Simulated and Debug are the result's; with the recorded evidence they
	// let another policy judge it.
	Vector    map[string]int `json:"trustworthiness_vector,omitempty"`
	Simulated bool           `json:"simulated,omitempty"`
	Debug     bool           `json:"debug,omitempty"`
	Unproven  []string       `json:"unproven,omitempty"`
	Checks    []Check        `json:"checks"`
	// Findings say why claims were not affirmed by the policy.
	Findings []Finding `json:"findings,omitempty"`
	// References are, where there are findings, the reference values of this TEE
	// that say what launch they were computed for: at most MaxReferences bytes.
	References []Reference `json:"references,omitempty"`
	// ReferencesOmitted is how many more there were.
	ReferencesOmitted int `json:"references_omitted,omitempty"`
}

// MaxReferences bounds the references of one appraisal in a record, in bytes of JSON.
const MaxReferences = 24 << 10

// Reference is a bundle of reference values with the launch that it was computed
// for, as the bundle states it.
type Reference struct {
	Bundle   string         `json:"bundle"` // name
	SignedBy string         `json:"signed_by,omitempty"`
	Launch   *launch.Inputs `json:"launch"`
	Values   map[string]any `json:"values"`
}

// Check is one fact that the verifier has verified.
type Check struct {
	What   string `json:"what"`
	Found  string `json:"found,omitempty"`
	Source string `json:"source,omitempty"`
}

// Finding is the condition of a policy that kept a claim from being affirmed.
type Finding struct {
	Claim     string `json:"claim"` // AR4SI name
	Value     int    `json:"value"`
	Field     string `json:"field,omitempty"` // "snp.measurement"
	Measured  string `json:"measured,omitempty"`
	Expected  string `json:"expected,omitempty"`
	Reference string `json:"reference,omitempty"` // name of the reference value
	Source    string `json:"source,omitempty"`
	Condition string `json:"condition,omitempty"`
	Line      int    `json:"line,omitempty"`
}

// Info describes the server.
type Info struct {
	Instance string `json:"instance"`
	Version  string `json:"version"`
}

// ClientConfig is client.json: how an owner's tool on the same machine reaches
// the trustee. It holds no secret itself.
type ClientConfig struct {
	URL          string `json:"url"`
	CAPEM        string `json:"ca_pem"`
	AdminKeyPath string `json:"admin_key_path"`
	Namespace    string `json:"simulated_namespace,omitempty"`
	StateDir     string `json:"state_dir"`
	PID          int    `json:"pid"`
	// AttestationURL and ReferenceURL are of the published services; "": not served.
	AttestationURL string `json:"attestation_url,omitempty"`
	ReferenceURL   string `json:"reference_url,omitempty"`
}
