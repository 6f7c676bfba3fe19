package nebulaca

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/slackhq/nebula/cert"
)

// What the published plugin and the tool that it runs use where nothing is said.
const (
	DefaultName     = "Trustee Nebula CA plugin"
	DefaultDuration = 8760 * time.Hour
	Curve25519      = "25519"
	CurveP256       = "P256"
)

const (
	minDuration = time.Minute
	maxDuration = 20 * DefaultDuration
	maxText     = 253 // bytes of a name or a group
	maxEntries  = 64  // groups, networks or subnets
)

// Config says what authority a namespace has. Another Config is another authority: that
// of the old one stays in the store, for when its settings are back.
type Config struct {
	Name     string        `json:"name"`     // "": DefaultName
	Curve    string        `json:"curve"`    // Curve25519 or CurveP256; "": Curve25519
	Duration time.Duration `json:"duration"` // of the authority; 0: DefaultDuration
	// Version of the certificates: 1 (IPv4 alone; every Nebula reads it) or 2; 0: 1.
	Version int `json:"version"`
	// Groups, Networks and Subnets are what certificates may have; none: anything.
	Groups   []string       `json:"groups"`
	Networks []netip.Prefix `json:"networks"`
	Subnets  []netip.Prefix `json:"subnets"`
	// Folder of an authority that the published plugin has made (ca/ca.crt, ca/ca.key),
	// which the default namespace takes over once; "": none.
	Folder string `json:"-"`
}

func (c *Config) complete() error {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.Curve == "" {
		c.Curve = Curve25519
	}
	if c.Duration == 0 {
		c.Duration = DefaultDuration
	}
	if c.Version == 0 {
		c.Version = 1
	}
	switch {
	case len(c.Name) > maxText:
		return fmt.Errorf("a name of more than %d bytes", maxText)
	case c.Curve != Curve25519 && c.Curve != CurveP256:
		return fmt.Errorf("curve %.20q is neither %s nor %s", c.Curve, Curve25519, CurveP256)
	case c.Duration < minDuration || c.Duration > maxDuration:
		return fmt.Errorf("a duration of %s, not %s to %s", c.Duration, minDuration, maxDuration)
	case c.Version != 1 && c.Version != 2:
		return fmt.Errorf("certificates of version %d, neither 1 nor 2", c.Version)
	case len(c.Groups) > maxEntries || len(c.Networks) > maxEntries || len(c.Subnets) > maxEntries:
		return fmt.Errorf("more than %d groups, networks or subnets", maxEntries)
	}
	for _, p := range append(append([]netip.Prefix{}, c.Networks...), c.Subnets...) {
		if c.Version == 1 && !p.Addr().Is4() {
			return fmt.Errorf("%s: certificates of version 1 have IPv4 addresses alone", p)
		}
	}
	return nil
}

// digest tells one Config from another.
func (c *Config) digest() (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("nebula CA: %w", err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:16]), nil
}

// Set sets one of the published keys of ca_config by its text, or version.
func (c *Config) Set(key, value string) (err error) {
	switch key {
	case "name":
		c.Name = value
	case "curve":
		switch value {
		case "X25519", "Curve25519", "CURVE25519": // as the published tool spells it as well
			value = Curve25519
		}
		if c.Curve = value; value != Curve25519 && value != CurveP256 {
			err = fmt.Errorf("%.20q is neither %s nor %s", value, Curve25519, CurveP256)
		}
	case "duration":
		if c.Duration, err = duration(value); err == nil && c.Duration == 0 {
			err = errors.New("a duration of nothing")
		}
	case "groups":
		c.Groups, err = texts(value)
	case "ips":
		c.Networks, err = Prefixes(value)
	case "subnets":
		c.Subnets, err = Prefixes(value)
	case "version":
		switch value {
		case "1":
			c.Version = 1
		case "2":
			c.Version = 2
		default:
			err = errors.New("neither 1 nor 2")
		}
	default:
		return fmt.Errorf("%.40q is none of name, curve, duration, groups, ips, subnets, version", key)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (c *Config) curve() cert.Curve {
	if c.Curve == CurveP256 {
		return cert.Curve_P256
	}
	return cert.Curve_CURVE25519
}

// amount is what the published tool takes, without signs and fractions.
var amount = regexp.MustCompile(`^([0-9]{1,7}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$`)

func duration(s string) (time.Duration, error) {
	if s == "" || !amount.MatchString(s) {
		return 0, fmt.Errorf("%.40q is no duration such as 8760h or 1h30m", s)
	}
	return time.ParseDuration(s)
}

func list(s string) []string {
	var out []string
	for _, e := range strings.Split(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func texts(s string) ([]string, error) {
	out := list(s)
	if len(out) > maxEntries {
		return nil, fmt.Errorf("more than %d entries", maxEntries)
	}
	for _, e := range out {
		if len(e) > maxText {
			return nil, fmt.Errorf("%.40q...: more than %d bytes", e, maxText)
		}
	}
	return out, nil
}

// Prefixes reads addresses with their networks, such as 10.0.0.1/24, between commas.
func Prefixes(s string) ([]netip.Prefix, error) {
	l := list(s)
	if len(l) > maxEntries {
		return nil, fmt.Errorf("more than %d entries", maxEntries)
	}
	var out []netip.Prefix
	for _, e := range l {
		p, err := prefix(e)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func prefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%.60q is no address with its network, such as 10.0.0.1/24", s)
	}
	return p, nil
}
