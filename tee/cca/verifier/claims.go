package verifier

import (
	"encoding/base64"
	"fmt"

	"github.com/cofferproject/coffer/tee/cca/token"
)

// claims gives the published names and forms: bytes in standard base64.
func claims(t *token.Token) map[string]any {
	b64 := base64.StdEncoding.EncodeToString
	p, r := &t.Platform, &t.Realm
	components := make([]any, 0, len(p.Components))
	for _, c := range p.Components {
		m := map[string]any{"measurement-value": b64(c.Measurement), "signer-id": b64(c.SignerID)}
		for name, v := range map[string]string{"measurement-type": c.Type, "version": c.Version, "measurement-description": c.Hash} {
			if v != "" {
				m[name] = v
			}
		}
		components = append(components, m)
	}
	platform := map[string]any{
		"cca-platform-profile":           p.Profile,
		"cca-platform-implementation-id": b64(p.ImplementationID),
		"cca-platform-instance-id":       b64(p.InstanceID),
		"cca-platform-challenge":         b64(p.Challenge),
		"cca-platform-config":            b64(p.Config),
		"cca-platform-lifecycle":         int64(*p.Lifecycle),
		"cca-platform-sw-components":     components,
		"cca-platform-hash-algo-id":      p.Hash,
	}
	if p.Service != "" {
		platform["cca-platform-service-indicator"] = p.Service
	}
	rem := make([]any, 0, len(r.REM))
	for _, m := range r.REM {
		rem = append(rem, b64(m))
	}
	realm := map[string]any{
		"cca-realm-challenge":               b64(r.Challenge),
		"cca-realm-personalization-value":   b64(r.RPV),
		"cca-realm-initial-measurement":     b64(r.RIM),
		"cca-realm-extensible-measurements": rem,
		"cca-realm-hash-algo-id":            r.Hash,
		"cca-realm-public-key":              b64(r.PublicKey),
		"cca-realm-public-key-hash-algo-id": r.PublicKeyHash,
	}
	if r.Profile != "" {
		realm["cca-realm-profile"] = r.Profile
	}
	return map[string]any{"platform": platform, "realm": realm}
}

// Lifecycle states of a CCA platform: the value's high byte.
var lifecycles = map[uint16]string{
	0x00: "unknown", 0x10: "assembly and test", 0x20: "CCA platform RoT provisioning", 0x30: "secured",
	0x40: "non-CCA platform debug", 0x50: "recoverable CCA platform debug", 0x60: "decommissioned",
}

// lifecycle says what a value means: whether the platform can be trusted at
// all, and whether the CCA platform is open to a debugger. Debugging of what is
// not part of the CCA platform leaves realms protected.
func lifecycle(v uint16) (name string, ok, debug bool) {
	name, known := lifecycles[v>>8]
	if !known {
		return fmt.Sprintf("%#04x", v), false, false
	}
	switch v >> 8 {
	case 0x30, 0x40:
		return name, true, false
	case 0x50:
		return name, true, true
	}
	return name, false, false
}
