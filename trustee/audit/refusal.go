package audit

import (
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/denial"
)

// Reasons of a Refusal. docs/denials.md explains them.
const (
	ReasonInUse      denial.Reason = "audit-log-in-use"
	ReasonUnsigned   denial.Reason = "audit-log-unsigned"
	ReasonUnexported denial.Reason = "audit-log-unexported"
	ReasonBroken     denial.Reason = "audit-log-broken"
	ReasonRemoved    denial.Reason = "audit-log-removed"
	ReasonChecking   denial.Reason = "audit-log-checking" // it takes longer than a request can wait
)

// Refusal says why a log is not removed, signed or read.
type Refusal struct {
	Reason denial.Reason
	text   string
}

// Error implements error.
func (r *Refusal) Error() string { return r.text }

func refuse(why denial.Reason, format string, args ...any) error {
	return &Refusal{why, fmt.Sprintf(format, args...)}
}

func removed(r *auditlog.Removal) error {
	return refuse(ReasonRemoved, "the audit log was removed at %s by %s", r.Time.Format(time.RFC3339), r.Actor)
}
