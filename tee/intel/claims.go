package intel

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"time"
)

// claims gives the published DCAP claims.
func claims(c *pckChain, d *documents, t *tcb, now time.Time) map[string]any {
	expired := "0"
	if now.After(d.expires) {
		expired = "1"
	}
	m := map[string]any{
		"earliest_issue_date":          rfc3339(d.firstIssue),
		"latest_issue_date":            rfc3339(d.lastIssue),
		"earliest_expiration_date":     rfc3339(d.expires),
		"tcb_date":                     rfc3339(t.launch.Date),
		"tcb_status":                   string(t.launch.Status),
		"advisory_ids":                 array(t.launch.Advisories),
		"tcb_eval_num":                 min(d.tcb.EvalNumber, d.qe.EvalNumber),
		"platform_provider_id":         hex.EncodeToString(c.pck.PPID[:]),
		"sgx_type":                     []string{"Standard", "Scalable", "Scalable with Integrity"}[c.pck.SGXType],
		"root_key_id":                  rootKeyID(c),
		"collateral_expiration_status": expired,
	}
	if d.rootCRL != nil {
		m["pck_crl_num"], m["root_ca_crl_num"] = number(d.pckCRL.number), number(d.rootCRL.number)
	}
	if c.pck.SGXType != Standard {
		m["is_dynamic_platform"], m["is_cached_keys"], m["is_smt_enabled"] = c.pck.Dynamic, c.pck.CachedKeys, c.pck.SMT
	}
	if id := c.pck.PlatformInstanceID(); id != "" {
		m["platform_instance_id"] = id
	}
	if t.current != nil {
		m["tcb_date_current"], m["tcb_status_current"] = rfc3339(t.current.Date), string(t.current.Status)
		m["advisory_ids_current"] = array(t.current.Advisories)
	}
	return m
}

// PlatformInstanceID gives the platform's id as it is published: hex of the
// certificate's bytes, last first; "" where there is none.
func (p *PCK) PlatformInstanceID() string {
	if p.PIID == nil {
		return ""
	}
	b := slices.Clone(p.PIID[:])
	slices.Reverse(b)
	return hex.EncodeToString(b)
}

// rootKeyID is SHA-384 of the root's uncompressed point.
func rootKeyID(c *pckChain) string {
	k, err := p256(c.root)
	if err != nil {
		return ""
	}
	b, err := k.Bytes()
	if err != nil {
		return ""
	}
	s := sha512.Sum384(b)
	return hex.EncodeToString(s[:])
}

func number(n *big.Int) json.Number { return json.Number(n.String()) }

// array is never null in JSON, and of the type that policies see.
func array(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
