package trusteeapi

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/svid"
)

// Bounds of identities.
const (
	MaxIdentityLife     = time.Hour
	MinIdentityLife     = time.Minute
	DefaultIdentityLife = time.Hour
	MaxAudiences        = 32
	maxAudience         = 255 // bytes
	maxTrustDomain      = 255
	maxSPIFFEPath       = 1024
)

// TrustDomain is the body that names a namespace's SPIFFE trust domain, once and for
// good.
type TrustDomain struct {
	TrustDomain string `json:"trust_domain"`
}

// Identity is a SPIFFE identity that the owner has registered. Which guests have it is
// for the binding of Resource to say.
type Identity struct {
	Name string `json:"name"`
	// Path is that of the SPIFFE id: "/ns/prod/web".
	Path string `json:"path"`
	// LifeSeconds is how long a document counts; 0: an hour, which is the most.
	LifeSeconds int `json:"life_seconds,omitempty"`
	// Audiences are those that JWT documents may be for; none: there are none.
	Audiences []string  `json:"audiences,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	CreatedBy string    `json:"created_by,omitempty"`
	// ID and Resource are the trustee's to fill in: the whole SPIFFE id, and the name
	// that is bound to pods.
	ID       string `json:"id,omitempty"`
	Resource string `json:"resource,omitempty"`
}

// IdentityResource gives the name under which an identity is bound to pods.
func IdentityResource(name string) string { return "identity/svid/" + name }

// IdentityAuthority is a certificate authority of a namespace's identities.
type IdentityAuthority struct {
	ID    string    `json:"id"` // SHA-256 of its certificate, hex
	Made  time.Time `json:"made"`
	Signs time.Time `json:"signs"`
	Until time.Time `json:"until,omitzero"` // when it leaves the bundle
}

var (
	trustDomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	pathSegment = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// CheckIdentityName reports what is no name of an identity.
func CheckIdentityName(s string) error {
	return svid.CheckName(s)
}

// CheckTrustDomain reports what is no trust domain (SPIFFE-ID, section 2.1), or none
// that a certificate authority can be held to.
func CheckTrustDomain(s string) error {
	if len(s) > maxTrustDomain || !trustDomain.MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%.80q is no trust domain, such as prod.example.org", s)
	}
	return nil
}

// Check reports the first thing that is wrong with a registration.
func (i *Identity) Check() error {
	if err := CheckIdentityName(i.Name); err != nil {
		return err
	}
	segments, ok := strings.CutPrefix(i.Path, "/")
	if !ok || len(i.Path) > maxSPIFFEPath {
		return fmt.Errorf("path %.80q: not of the form /ns/prod/web", i.Path)
	}
	for s := range strings.SplitSeq(segments, "/") {
		if !pathSegment.MatchString(s) || s == "." || s == ".." {
			return fmt.Errorf("path %.80q: segments are letters, digits, dots, dashes and underscores", i.Path)
		}
	}
	if d := time.Duration(i.LifeSeconds) * time.Second; i.LifeSeconds != 0 && (d < MinIdentityLife || d > MaxIdentityLife) {
		return fmt.Errorf("life_seconds: from %d to %d", MinIdentityLife/time.Second, MaxIdentityLife/time.Second)
	}
	if len(i.Audiences) > MaxAudiences {
		return fmt.Errorf("more than %d audiences", MaxAudiences)
	}
	for _, a := range i.Audiences {
		if a == "" || len(a) > maxAudience {
			return fmt.Errorf("audience %.80q: from 1 to %d bytes", a, maxAudience)
		}
	}
	if i.ID != "" || i.Resource != "" {
		return errors.New("id and resource are the trustee's to say")
	}
	return nil
}

// Life gives how long documents count.
func (i *Identity) Life() time.Duration {
	if i.LifeSeconds == 0 {
		return DefaultIdentityLife
	}
	return time.Duration(i.LifeSeconds) * time.Second
}
