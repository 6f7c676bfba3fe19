package kbsconfig

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// TLS is what a file says of versions and algorithms; zero: as this trustee does
// without a file.
type TLS struct {
	Min, Max uint16 // crypto/tls.VersionTLS12, ...; 0: not said
	Ciphers  []uint16
	Groups   []tls.CurveID

	profile string
}

// Apply puts the choices into a configuration of crypto/tls.
func (t *TLS) Apply(c *tls.Config) {
	if t.Min != 0 {
		c.MinVersion = t.Min
	}
	c.MaxVersion, c.CipherSuites, c.CurvePreferences = t.Max, t.Ciphers, t.Groups
}

func (r *reader) version(name string, v any) uint16 {
	switch s := r.text(name, v); s {
	case "1.2":
		return tls.VersionTLS12
	case "1.3":
		return tls.VersionTLS13
	default:
		r.refuse(name, fmt.Sprintf("%.20q is neither 1.2 nor 1.3", s))
	}
	return 0
}

// tls completes the profile.
func (r *reader) tls() {
	t := &r.c.TLS
	switch t.profile {
	case "", "intermediate", "custom":
	case "modern":
		t.Min = max(t.Min, tls.VersionTLS13)
	case "old":
		r.refuse("http_server.tls_profile", "old allows ciphers without forward secrecy or authenticated encryption: use intermediate")
	default:
		r.refuse("http_server.tls_profile", fmt.Sprintf("%.20q is none of intermediate, modern, custom", t.profile))
	}
	if t.Max != 0 && t.Max < tls.VersionTLS13 {
		r.refuse("http_server.tls_max_version", "Coffer's guests and tools speak TLS 1.3: leave it out, or 1.3")
	}
}

// tls13 are the suites of TLS 1.3, all of which crypto/tls always offers.
var tls13 = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}

// openSSL gives the other spelling of a suite of TLS 1.2.
func openSSL(iana string) string {
	s := strings.TrimPrefix(iana, "TLS_")
	s = strings.NewReplacer("_WITH_", "-", "AES_128", "AES128", "AES_256", "AES256").Replace(s)
	s = strings.ReplaceAll(s, "_", "-")
	if strings.Contains(s, "CHACHA20") {
		s = strings.TrimSuffix(s, "-SHA256")
	}
	return s
}

// ciphers takes the suites with forward secrecy and authenticated encryption.
func ciphers(r *reader, name string, v any) {
	known := map[string]uint16{}
	for _, s := range tls.CipherSuites() {
		if strings.Contains(s.Name, "GCM") && strings.Contains(s.Name, "ECDHE") || strings.Contains(s.Name, "CHACHA20") && strings.Contains(s.Name, "ECDHE") {
			known[s.Name], known[openSSL(s.Name)] = s.ID, s.ID
		}
	}
	of13 := 0
	for c := range strings.SplitSeq(r.text(name, v), ":") {
		id, ok := known[c]
		switch {
		case ok:
			r.c.TLS.Ciphers = append(r.c.TLS.Ciphers, id)
		case slices.Contains(tls13, c):
			of13++
		default:
			r.refuse(name, fmt.Sprintf("%.60q is not offered: suites with forward secrecy and authenticated encryption only", c))
		}
	}
	if of13 > 0 && of13 < len(tls13) {
		r.note(name, "TLS 1.3 has all of its three suites, which cannot be chosen among")
	}
}

// groups are the key exchanges that crypto/tls has, by OpenSSL's names.
var groupIDs = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768, "SecP256r1MLKEM768": tls.SecP256r1MLKEM768, "SecP384r1MLKEM1024": tls.SecP384r1MLKEM1024,
	"X25519": tls.X25519, "secp256r1": tls.CurveP256, "prime256v1": tls.CurveP256, "P-256": tls.CurveP256,
	"secp384r1": tls.CurveP384, "P-384": tls.CurveP384, "secp521r1": tls.CurveP521, "P-521": tls.CurveP521,
}

// groups puts the post-quantum hybrid first where it is not named, as the existing
// service does.
func groups(r *reader, name string, v any) {
	l := &r.c.TLS.Groups
	for g := range strings.SplitSeq(r.text(name, v), ":") {
		id, ok := groupIDs[g]
		if !ok {
			r.refuse(name, fmt.Sprintf("%.40q is not offered", g))
			continue
		}
		*l = append(*l, id)
	}
	if !slices.Contains(*l, tls.X25519MLKEM768) {
		*l = append([]tls.CurveID{tls.X25519MLKEM768}, *l...)
	}
}
