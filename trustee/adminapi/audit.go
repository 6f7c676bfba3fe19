package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// auditRoutes are those of the whole audit log.
func auditRoutes() []route {
	return []route{
		{"GET", "/audit", ReadAuditLog, 0, (*call).auditTail},
		{"GET", "/audit/logs", ReadAuditLog, 0, (*call).auditLogs},
		{"GET", "/audit/checkpoint", ReadAuditLog, 0, (*call).auditCheckpoint},
		{"POST", "/audit/logs/{log}/checkpoint", RemoveAuditLog, small, (*call).signAuditLog},
		{"POST", "/audit/logs/{log}/removal", RemoveAuditLog, small, (*call).removeAuditLog},
	}
}

// auditLog is the log that the query names, which is this server's own unless the
// store has others.
func (c *call) auditLog() (interface {
	Read(after uint64, limit, maxBytes int) ([][]byte, error)
}, error,
) {
	id := c.r.URL.Query().Get("log")
	if own, _, err := c.cfg.Audit.End(c.ctx()); err != nil || id == "" || id == own {
		return c.cfg.Audit, err
	}
	return c.storedLog(id)
}

func (c *call) storedLog(id string) (*audit.Stored, error) {
	l, err := audit.Find(c.ctx(), c.cfg.Store, id)
	if errors.Is(err, audit.ErrNoLog) {
		return nil, fmt.Errorf("audit log %.70q: %w", id, tenant.ErrNotFound)
	}
	return l, err
}

// auditLogs lists this server's own log, and those in the store, with those that were
// removed.
func (c *call) auditLogs() (any, error) {
	own, seq, err := c.cfg.Audit.End(c.ctx())
	if err != nil {
		return nil, err
	}
	stored, err := audit.List(c.ctx(), c.cfg.Store)
	if err != nil {
		return nil, err
	}
	out := []trusteeapi.AuditLog{}
	found := false
	for _, l := range stored {
		x := trusteeapi.AuditLog{ID: l.ID, Host: l.Host, Began: l.Began, Records: l.Records, Own: l.ID == own, Removed: l.Removed}
		found = found || x.Own
		out = append(out, x)
	}
	if !found {
		out = append(out, trusteeapi.AuditLog{ID: own, Records: seq, Own: true})
	}
	return out, nil
}

// auditCheckpoint signs the end of this server's own log; of another it gives what
// was signed last.
func (c *call) auditCheckpoint() (any, error) {
	id := c.r.URL.Query().Get("log")
	s, own, err := c.cfg.Checkpoints.Now(c.ctx())
	if err != nil || id == "" || id == own.Log {
		return s, err
	}
	l, err := c.storedLog(id)
	if err != nil {
		return nil, err
	}
	kept, err := l.Checkpoint(c.ctx())
	if err == nil && kept == nil {
		return nil, fmt.Errorf("checkpoint of audit log %.70q: %w", id, tenant.ErrNotFound)
	}
	return kept, err
}

func (c *call) auditTail() (any, error) {
	after, limit, err := c.auditQuery()
	if err != nil {
		return nil, err
	}
	log, err := c.auditLog()
	if err != nil {
		return nil, err
	}
	out, err := log.Read(after, limit, auditBytes)
	return lines(out), err
}

func (c *call) auditQuery() (after uint64, limit int, err error) {
	q := c.r.URL.Query()
	limit = auditLines
	if a := q.Get("after"); a != "" {
		if after, err = strconv.ParseUint(a, 10, 64); err != nil {
			return 0, 0, httpio.BadRequest(httpio.TypeSerde, "after is not a number")
		}
	}
	if l := q.Get("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil || limit < 1 {
			return 0, 0, httpio.BadRequest(httpio.TypeSerde, "limit is not a positive number")
		}
	}
	return after, min(limit, auditLines), nil
}

// headerNext says where the next page of a namespace's audit begins: what is between
// is of others.
const headerNext = "Coffer-Audit-Next"

// auditPages bounds how much of the log one request looks through.
const auditPages = 50

func (c *call) namespaceAudit() (any, error) {
	after, limit, err := c.auditQuery()
	if err != nil {
		return nil, err
	}
	if _, err := c.cfg.Registry.Namespace(c.ctx(), c.ns()); err != nil {
		return nil, err
	}
	log, err := c.auditLog()
	if err != nil {
		return nil, err
	}
	out := paged{}
	for range auditPages {
		page, err := log.Read(after, auditLines, auditBytes)
		if err != nil {
			return nil, err
		}
		for _, l := range page {
			var e struct {
				Seq       uint64 `json:"seq"`
				Namespace string `json:"namespace"`
			}
			if err := json.Unmarshal(l, &e); err != nil {
				return nil, fmt.Errorf("audit: %w", err)
			}
			if len(out.lines) == limit {
				return out, nil
			}
			if after = e.Seq; e.Namespace == c.ns() {
				out.lines = append(out.lines, l)
			}
			out.next = after
		}
		if len(page) == 0 {
			break
		}
	}
	return out, nil
}

// paged is lines, and from where to go on.
type paged struct {
	lines lines
	next  uint64
}

func (p paged) write(w http.ResponseWriter) {
	w.Header().Set(headerNext, strconv.FormatUint(p.next, 10))
	p.lines.write(w)
}
