package adminapi

import (
	"encoding/hex"
	"strings"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
)

// removeAuditLog takes the records of a finished log out of the store.
func (c *call) removeAuditLog() (any, error) {
	in, err := decode[trusteeapi.AuditRemoval](c)
	if err != nil {
		return nil, err
	}
	if b, err := hex.DecodeString(in.SHA256); err != nil || len(b) != 32 || strings.ToLower(in.SHA256) != in.SHA256 {
		return nil, httpio.BadRequest(httpio.TypeSerde, "sha256 is not a SHA-256 in lower-case hex")
	}
	l, err := c.storedLog(c.r.PathValue("log"))
	if err != nil {
		return nil, err
	}
	return c.cfg.Checkpoints.Remove(c.ctx(), l, in.SHA256, c.actor, func(what *auditlog.Removed) (uint64, error) {
		e := &audit.Entry{Kind: audit.KindAdmin, Record: record.NewID(), Actor: c.actor, Action: auditlog.ActionRemoved, Peer: c.r.RemoteAddr, Log: what}
		if err := c.cfg.Audit.Append(c.ctx(), e); err != nil {
			return 0, release.Unrecorded(Component, err)
		}
		return e.Seq, nil
	})
}

// signAuditLog signs where the log of another server ends.
func (c *call) signAuditLog() (any, error) {
	if _, err := decode[struct{}](c); err != nil {
		return nil, err
	}
	l, err := c.storedLog(c.r.PathValue("log"))
	if err != nil {
		return nil, err
	}
	return c.cfg.Checkpoints.SignEnd(c.ctx(), l)
}
