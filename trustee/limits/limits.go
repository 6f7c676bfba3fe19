// Package limits bounds what the trustee keeps: how many entries of each kind a
// namespace may have, and how much collateral there is for all of them. Entries
// are bounded in size by who reads them; the number of both makes a bound of the
// store.
//
// Invariants: every kind has a bound, and none is switched off; what is there
// already is never refused or dropped when a bound is lowered.
//
// Trust zone: trustee.
package limits

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
)

// Reason of an error that names a limit. docs/denials.md explains it.
const Reason denial.Reason = "limit-reached"

// Name names a limit, on the command line and in errors.
type Name string

// Names. Each is a number of entries of one namespace, unless it says otherwise.
const (
	Namespaces      Name = "namespaces" // of the trustee
	Owners          Name = "owners"
	Seals           Name = "seals"
	Secrets         Name = "secrets"
	DeletedSecrets  Name = "deleted-secrets" // whose version numbers are remembered, so that none is used again
	OutsideSecrets  Name = "outside-secrets"
	Bindings        Name = "bindings"
	BindingEntries  Name = "binding-entries" // seals and digests of one binding
	ReferenceValues Name = "reference-values"
	Roots           Name = "roots"
	RootKeys        Name = "root-keys" // keys known as simulated or genuine, also after they were deleted; of the trustee
	EnrolledAKs     Name = "enrolled-aks"
	Policies        Name = "policies"
	Anchors         Name = "anchors"
	Identities      Name = "identities"
	Sessions        Name = "sessions"         // attested ones that have not ended, and those that ended a minute ago
	SecretBytes     Name = "secret-bytes"     // of all versions that are kept, as stored
	CollateralItems Name = "collateral-items" // of the trustee
	CollateralBytes Name = "collateral-bytes" // as stored: JSON with bodies in base64; of the trustee
	Credentials     Name = "credentials"      // of the trustee
	AdminTokens     Name = "admin-tokens"     // used and not yet ended, of one process; a credential's are half of it at most
)

// Set is a choice of all limits.
type Set map[Name]int

// Defaults gives a new Set, which may be changed.
func Defaults() Set {
	return Set{
		Namespaces: 1000, Owners: 1000, Seals: 10_000, Secrets: 10_000, OutsideSecrets: 10_000, DeletedSecrets: 100_000, Bindings: 10_000, BindingEntries: 1000, ReferenceValues: 64,
		Roots: 1000, RootKeys: 100_000, EnrolledAKs: 10_000, Policies: 64, Anchors: 256, Identities: 1000, Sessions: 100_000, SecretBytes: 4 << 30, CollateralItems: 20_000, CollateralBytes: 256 << 20, Credentials: 10_000, AdminTokens: 500_000,
	}
}

// ofTrustee are bounds of the whole trustee; all others are of each namespace.
var ofTrustee = []Name{Namespaces, RootKeys, CollateralItems, CollateralBytes, Credentials, AdminTokens}

// MaxQuota is the largest number that a quota can be.
const MaxQuota = 1 << 40

// CheckQuotas reports quotas that no namespace can have.
func CheckQuotas(quotas map[Name]int) error {
	d := Defaults()
	for n, most := range quotas {
		switch {
		case d[n] == 0:
			return unknown(n)
		case slices.Contains(ofTrustee, n):
			return fmt.Errorf("limit %s is of the trustee, and no namespace's quota", n)
		case most < 1 || most > MaxQuota:
			return fmt.Errorf("quota %s: %d, from 1 to %d", n, most, MaxQuota)
		}
	}
	return nil
}

// Of gives the limits of a namespace with quotas of its own.
func (s Set) Of(quotas map[Name]int) Set {
	if len(quotas) == 0 {
		return s
	}
	out := maps.Clone(s)
	maps.Copy(out, quotas)
	return out
}

// Validate reports a limit that is missing, unknown or not positive.
func (s Set) Validate() error {
	d := Defaults()
	for n := range d {
		if s[n] < 1 {
			return fmt.Errorf("limit %s: %d, at least 1", n, s[n])
		}
	}
	for n := range s {
		if d[n] == 0 {
			return unknown(n)
		}
	}
	return nil
}

func unknown(n Name) error {
	var names []string
	for n := range Defaults() {
		names = append(names, string(n))
	}
	slices.Sort(names)
	return fmt.Errorf("limit %.40q is not one of %s", n, strings.Join(names, ", "))
}

// Change takes NAME=NUMBER.
func (s Set) Change(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("limit %.80q is not NAME=NUMBER", text)
	}
	if s[Name(name)] == 0 {
		return unknown(Name(name))
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return fmt.Errorf("limit %s: %.20q is not a number of at least 1", name, value)
	}
	s[Name(name)] = n
	return nil
}

// Err is what every Error is, for errors.Is.
var Err = errors.New("too many")

// Error says that one more does not fit.
type Error struct {
	Name Name
	Most int
	// Where is the namespace, or "" for a limit of the whole trustee.
	Where string
}

// Error names the limit and how it is raised.
func (e *Error) Error() string {
	where := "this trustee"
	if e.Where != "" {
		where = "namespace " + e.Where
	}
	how := fmt.Sprintf("coffer-trustee serve --limit %s=N", e.Name)
	if e.Where != "" {
		how = fmt.Sprintf("coffer namespace quota %s %s=N, or %s for all", e.Where, e.Name, how)
	}
	return fmt.Sprintf("%s takes at most %d %s (%s)", where, e.Most, e.Name, how)
}

// Is makes every Error an Err.
func (e *Error) Is(target error) bool { return target == Err }

// Check reports an Error unless n entries are allowed.
func (s Set) Check(name Name, where string, n int) error {
	if n <= s[name] {
		return nil
	}
	return &Error{name, s[name], where}
}
