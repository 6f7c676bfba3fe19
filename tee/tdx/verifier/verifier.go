// Package verifier judges TDX evidence: the quote (tee/intel), report data,
// MRCONFIGID against the initdata document, the event log against the RTMRs
// (SPEC.md, "What the verifier checks").
//
// Invariants: no network, no files; every refusal is a typed denial; no event of
// a log is shown that its registers do not vouch for.
//
// Trust zone: trustee and owner.
package verifier

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/verify"
)

const component = "tdx-verifier"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonMalformed         denial.Reason = "tdx-evidence-malformed"
	ReasonEventLogMalformed denial.Reason = "tdx-eventlog-malformed"
	ReasonEventLogMismatch  denial.Reason = "tdx-eventlog-mismatch"
	ReasonEventLogMissing   denial.Reason = "tdx-eventlog-missing"
	ReasonMigratable        denial.Reason = "tdx-migratable"
)

// Verifier judges the published evidence of TEE "tdx".
type Verifier struct {
	kind   verify.Kind
	quotes *intel.Verifier
}

// New makes the verifier.
func New(cfg verify.Config) (verify.Verifier, error) {
	q, err := intel.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Verifier{cfg.Kind, q}, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := tdx.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, component, "evidence", err)
	}
	res, err := v.kind.NewResult(component, tdx.WireName, verify.ClassCPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	q, err := VerifyQuote(v.quotes, component, e.Quote, in.Now, res)
	if err != nil {
		return nil, err
	}
	td := q.TD
	log, err := checkEventLog(e.EventLog, td, res)
	if err != nil {
		return nil, err
	}
	maps.Copy(res.Claims, Claims(q, log))
	if log != nil {
		if texts := aael.Texts(log.Events); texts != nil {
			res.Claims[verify.ClaimRuntimeEvents] = texts
		}
	}
	if err := verify.CheckReportData(component, td.ReportData[:], in, res); err != nil {
		return nil, err
	}
	if err := verify.CheckInitdata(component, tdx.WireName, "MRCONFIGID", td.MRConfigID[:], in, res); err != nil {
		return nil, err
	}
	return []*verify.Result{res}, nil
}

// VerifyQuote adds what a TD's quote proves, its event log aside, to a result, and
// refuses a TD that may be migrated. component names the caller in denials.
func VerifyQuote(quotes *intel.Verifier, component string, raw []byte, now time.Time, res *verify.Result) (*quote.Quote, error) {
	v, err := quotes.VerifyQuote(raw, quote.TDX, now)
	if err != nil {
		return nil, err
	}
	if err := checkMigration(component, v.Quote.TD); err != nil {
		return nil, err
	}
	v.AddTo(res)
	res.Debug = res.Debug || debug(v.Quote.TD)
	return v.Quote, nil
}

// debug reports whether the TD is under debug: any bit of the attributes' first
// byte (TD Under Debug) makes it so.
func debug(td *quote.TD) bool { return td.TDAttributes[0] != 0 }

// checkMigration refuses a TD that may be migrated: the host chooses the migration
// TD, which gets all of the TD's memory, and neither MRTD nor the RTMRs say so.
func checkMigration(component string, td *quote.TD) error {
	if a := td.Attributes(); a&quote.TDMigratable != 0 {
		return verify.Mismatch(ReasonMigratable, component, "TD attributes", fmt.Sprintf("%#x", a), "MIGRATABLE (bit 29) clear", "quote")
	}
	return nil
}

// rtmrEvents is the register of run-time events.
const rtmrEvents = 3

// checkEventLog replays the log to the RTMRs; nil if none came, which only a TD
// that recorded nothing may do: no policy would know the value of RTMR 3.
func checkEventLog(b []byte, td *quote.TD, res *verify.Result) (*eventlog.Log, error) {
	if len(b) == 0 {
		if r := td.RTMR[rtmrEvents]; r != [tdx.RTMRSize]byte{} {
			return nil, verify.Mismatch(ReasonEventLogMissing, component, fmt.Sprintf("RTMR %d", rtmrEvents), hex.EncodeToString(r[:]), "zero, or the events that explain it", "cc_eventlog")
		}
		return nil, nil
	}
	malformed := func(err error) error { return verify.Deny(ReasonEventLogMalformed, component, "cc_eventlog", err) }
	log, err := eventlog.ParseCC(b)
	if err != nil {
		return nil, malformed(err)
	}
	var quoted [eventlog.RTMRs][]byte
	for i := range quoted {
		quoted[i] = td.RTMR[i][:]
	}
	if err := log.CheckRTMRs(eventlog.SHA384, quoted); err != nil {
		if e, ok := errors.AsType[*eventlog.ErrRTMR](err); ok {
			return nil, verify.Mismatch(ReasonEventLogMismatch, component, fmt.Sprintf("RTMR %d", e.Register), hex.EncodeToString(e.Quoted), hex.EncodeToString(e.Replayed), "replay of the event log")
		}
		return nil, malformed(err)
	}
	// The register vouches for a digest only; a text that is not the digest's would
	// tell a policy of an event that never was.
	for i := range log.Events {
		if e := &log.Events[i]; aael.Is(e) {
			if err := aael.Check(e, eventlog.SHA384); err != nil {
				return nil, malformed(fmt.Errorf("entry %d: %w", i, err))
			}
		}
	}
	onlyVouched(log)
	res.Checked("event log", fmt.Sprintf("%d events", len(log.Events)), "RTMR 0 to 3")
	return log, nil
}

// onlyVouched drops the digests of other banks: the header, which nobody signed,
// may name any, and no register has taken them.
func onlyVouched(log *eventlog.Log) {
	for i := range log.Events {
		e := &log.Events[i]
		e.Digests = slices.DeleteFunc(e.Digests, func(d eventlog.Digest) bool { return d.Algorithm != eventlog.SHA384 })
	}
}
