// Package ear is the contract of attestation results: EAR claims as a JSON Web
// Token with AR4SI trustworthiness vectors, in the published shape and with
// additions of Coffer's (SPEC.md).
//
// Invariants: the status of a submodule is the worst tier of its vector and
// nothing else can set it; a token is believed only by a key or an anchor that
// the verifier was given, never by a key that the token brings along.
//
// Trust zone: written by the trustee; read by the trustee, the guest (for the
// signed time) and relying parties.
package ear

import (
	"errors"
	"fmt"
)

// Profile is eat_profile as published.
const Profile = "tag:github.com,2024:confidential-containers/Trustee"

// Tier is a trust tier.
type Tier string

// Tiers, from no statement to the worst.
const (
	None            Tier = "none"
	Affirming       Tier = "affirming"
	Warning         Tier = "warning"
	Contraindicated Tier = "contraindicated"
)

func (t Tier) rank() int {
	switch t {
	case None:
		return 0
	case Affirming:
		return 1
	case Warning:
		return 2
	}
	return 3
}

// TierOf gives the tier of one claim's value.
func TierOf(v int8) Tier {
	n := int(v)
	if n < 0 {
		n = -n
	}
	switch {
	case n <= 1: // no claim; verifier malfunction
		return None
	case n < 32:
		return Affirming
	case n < 96:
		return Warning
	}
	return Contraindicated
}

// Values of claims that Coffer's own appraisal gives.
const (
	Recognized       int8 = 2  // the best statement of a claim
	ApprovedBoot     int8 = 3  // executables: what was booted is approved
	UnsafeConfig     int8 = 32 // configuration: known to be unsafe (debug)
	UnrecognizedConf int8 = 36 // configuration: not among the known
	UnsafeHardware   int8 = 32 // hardware: genuine at most by its own word (simulated)
)

// Vector is the AR4SI trustworthiness vector.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity"`
	Configuration    int8 `json:"configuration"`
	Executables      int8 `json:"executables"`
	FileSystem       int8 `json:"file-system"`
	Hardware         int8 `json:"hardware"`
	RuntimeOpaque    int8 `json:"runtime-opaque"`
	StorageOpaque    int8 `json:"storage-opaque"`
	SourcedData      int8 `json:"sourced-data"`
}

// Map gives the claims by their names.
func (v Vector) Map() map[string]int {
	return map[string]int{
		"instance-identity": int(v.InstanceIdentity), "configuration": int(v.Configuration),
		"executables": int(v.Executables), "file-system": int(v.FileSystem), "hardware": int(v.Hardware),
		"runtime-opaque": int(v.RuntimeOpaque), "storage-opaque": int(v.StorageOpaque), "sourced-data": int(v.SourcedData),
	}
}

// Status gives the worst tier of the vector.
func (v Vector) Status() Tier {
	worst := None
	for _, n := range []int8{
		v.InstanceIdentity, v.Configuration, v.Executables, v.FileSystem,
		v.Hardware, v.RuntimeOpaque, v.StorageOpaque, v.SourcedData,
	} {
		if t := TierOf(n); t.rank() > worst.rank() {
			worst = t
		}
	}
	return worst
}

// Claims is the payload of a token.
type Claims struct {
	Profile    string            `json:"eat_profile"`
	IssuedAt   int64             `json:"iat"`
	Expires    int64             `json:"exp"`
	Issuer     string            `json:"iss,omitempty"`
	VerifierID VerifierID        `json:"ear.verifier-id"`
	Submods    map[string]Submod `json:"submods"`
	ID         string            `json:"jti,omitempty"` // addition
	Audience   string            `json:"aud,omitempty"` // addition: the namespace
}

// VerifierID names the verifier.
type VerifierID struct {
	Developer string `json:"developer"`
	Build     string `json:"build"`
}

// Submod is the result for one device: cpu0, gpu0, ...
type Submod struct {
	Status   Tier           `json:"ear.status"`
	Vector   Vector         `json:"ear.trustworthiness-vector"`
	PolicyID string         `json:"ear.appraisal-policy-id"`
	Evidence map[string]any `json:"ear.veraison.annotated-evidence"`
	// Coffer holds the additions.
	Coffer *Additions `json:"ear.coffer,omitempty"`
	// Extensions are further members, which a policy has added
	// ("ear.trustee.identifiers").
	Extensions map[string]any `json:"-"`
}

// Additions are what Coffer states beyond the published claims.
type Additions struct {
	TEE string `json:"tee"` // wire name
	// Simulated: the hardware claim proves nothing.
	Simulated bool `json:"simulated"`
	// Debug: the TEE lets its host look in, or the guest image is a debug variant.
	Debug bool `json:"debug"`
	// Unproven names what the result rests on that no outside vector has shown to
	// be right; the namespace allows it.
	Unproven []string `json:"unproven,omitempty"`
	// Unbound names what the verifier did not compare, by an insecure choice:
	// "runtime-data" (nothing ties the evidence to a session).
	Unbound []string `json:"unbound,omitempty"`
	// Initdata is the verified digest of the initdata document.
	Initdata *Digest `json:"initdata,omitempty"`
	// Policy is the digest of the appraisal policy's text.
	Policy string `json:"policy"`
	// Namespace in which the evidence was appraised.
	Namespace string `json:"namespace"`
}

// Digest is a digest with its algorithm.
type Digest struct {
	Algorithm string `json:"alg"`
	Hex       string `json:"digest"`
}

// String gives "<algorithm>:<hex>".
func (d *Digest) String() string {
	if d == nil {
		return ""
	}
	return d.Algorithm + ":" + d.Hex
}

// Validate reports the first thing that makes a payload no EAR of ours.
func (c *Claims) Validate() error {
	switch {
	case c.Profile != Profile:
		return fmt.Errorf("profile %.80q is not %s", c.Profile, Profile)
	case c.Expires <= 0 || c.IssuedAt <= 0 || c.Expires <= c.IssuedAt:
		return errors.New("iat or exp missing, or in a wrong order")
	case len(c.Submods) == 0 || len(c.Submods) > 64:
		return fmt.Errorf("%d submodules", len(c.Submods))
	}
	for name, s := range c.Submods {
		if s.Status != s.Vector.Status() {
			return fmt.Errorf("submodule %.40q: status %.20q is not that of its vector, %s", name, s.Status, s.Vector.Status())
		}
	}
	return nil
}
