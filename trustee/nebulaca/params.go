package nebulaca

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Params are what a guest asks for, by the published names in the query.
type Params struct {
	Name    string
	Network netip.Prefix  // ip: the address in the overlay, with its network
	Lasts   time.Duration // duration; 0: until a second before the authority ends
	Groups  []string
	Subnets []netip.Prefix
}

// hostName is what can be a part of a resource's name.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}$`)

// ParseParams reads a query. A name that it does not know is an error.
func ParseParams(q map[string]string) (*Params, error) {
	p := &Params{Name: q["name"]}
	for k := range q {
		if !slices.Contains([]string{"name", "ip", "duration", "groups", "subnets"}, k) {
			return nil, fmt.Errorf("%.40q is not known", k)
		}
	}
	if !hostName.MatchString(p.Name) {
		return nil, errors.New("name: up to 63 letters, digits, and -, _ and dots")
	}
	var err error
	if p.Network, err = prefix(q["ip"]); err != nil {
		return nil, fmt.Errorf("ip: %w", err)
	}
	if s := q["duration"]; s != "" {
		if p.Lasts, err = duration(s); err == nil && p.Lasts <= 0 {
			err = errors.New("nothing")
		}
		if err != nil {
			return nil, fmt.Errorf("duration: %w", err)
		}
	}
	if p.Groups, err = texts(q["groups"]); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	if p.Subnets, err = Prefixes(q["subnets"]); err != nil {
		return nil, fmt.Errorf("subnets: %w", err)
	}
	return p, nil
}

// Resource is the name under which this credential is bound to guests: name and
// address, in which / and : are written _ and -. Two addresses never have one name,
// because the text of neither kind has _ or -.
func (p *Params) Resource() string {
	return strings.Join([]string{Name, p.Name, strings.NewReplacer("/", "_", ":", "-").Replace(p.Network.String())}, "/")
}

// Privileged reports that more is asked for than name and address, to which the
// binding gives a right.
func (p *Params) Privileged() bool { return len(p.Groups)+len(p.Subnets) > 0 }
