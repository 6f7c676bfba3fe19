// Package asapi serves the published interfaces of the Attestation Service (gRPC
// and REST) and of the Reference Value Provider Service (gRPC), for one namespace
// (shared facts: trustee sections 2.1, 2.2 and 2.6; SPEC.md), on the same appraisal
// as the KBS handshake.
//
// Invariants: the published services ask nobody who they are; here a change of
// policies or reference values needs an administrator's certificate, on every
// address; what is judged here says for the caller only, and no secret of this
// trustee leaves on it (appraisal.EvaluationAudience); accepted evidence and changes
// are in the audit log before they are answered; bodies are bounded one by one and
// together.
//
// Trust zone: trustee. Everything that comes in is hostile.
package asapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Component names these services in denials.
const Component = "attestation-service"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonVerifierFault denial.Reason = "verifier-fault"
	ReasonForbidden     denial.Reason = "service-forbidden"
)

// maxTEE is the longest wire name, in characters.
const maxTEE = 64

// Slots is how many requests are served at once: each may hold a body of
// httpio.MaxBody.
const Slots = 48

// Config makes a Service.
type Config struct {
	Namespace string
	Service   *appraisal.Service
	Registry  *tenant.Registry
	Store     store.Store
	Book      *record.Book
	Audit     *audit.Log
	Bodies    *httpio.Budget
	Log       *slog.Logger
	// JWKS gives a namespace's key set.
	JWKS func(ctx context.Context, ns string) ([]byte, error)
	// Query asks elsewhere for reference values; nil: the Registry has them.
	Query func(ctx context.Context, name string) (any, bool, error)
	// InsecureUnbound takes evidence without runtime data: nobody can tell whether
	// it is fresh. Tokens say so.
	InsecureUnbound bool
}

// Service answers both services' calls, by whatever transport they come.
type Service struct {
	cfg  Config
	work chan struct{}
}

// New refuses a configuration with a part missing.
func New(c Config) (*Service, error) {
	if c.Namespace == "" || c.Service == nil || c.Registry == nil || c.Store == nil || c.Book == nil || c.Audit == nil || c.Bodies == nil || c.Log == nil || c.JWKS == nil {
		return nil, errors.New("asapi: a part of the configuration is missing")
	}
	return &Service{c, make(chan struct{}, Slots)}, nil
}

// limited serves where there is a slot; a server that stays busy says so.
func (s *Service) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := time.NewTimer(2 * time.Second)
		defer t.Stop()
		select {
		case s.work <- struct{}{}:
			defer func() { <-s.work }()
		case <-t.C:
			w.Header().Set("Retry-After", "1")
			httpio.WriteError(w, http.StatusTooManyRequests, httpio.TypeAttestation, "too many requests at once")
			return
		case <-r.Context().Done():
			return
		}
		next.ServeHTTP(w, r)
	})
}

// evaluate judges evidence and gives the token.
func (s *Service) evaluate(ctx context.Context, e *appraisal.Evaluation) (string, error) {
	c := callerOf(ctx)
	e.Namespace, e.InsecureUnbound, e.Peer = s.cfg.Namespace, s.cfg.InsecureUnbound, c.peer
	if len(e.Requests) == 0 {
		return "", bad("verification_requests: none")
	}
	for _, r := range e.Requests {
		if r.TEE == "" || len(r.TEE) > maxTEE {
			return "", bad("tee: missing or too long")
		}
	}
	rec := trusteeapi.Record{ID: record.NewID(), Kind: "attest", Namespace: e.Namespace, Peer: c.peer, TEE: e.Requests[0].TEE}
	res, err := s.appraise(ctx, rec.ID, e)
	if err != nil {
		return "", s.denied(ctx, rec, err)
	}
	res.Describe(&rec)
	if err := s.cfg.Store.Update(ctx, func(tx store.Tx) error { return record.Put(tx, &rec) }); err != nil {
		return "", err
	}
	p := res.Primary()
	if err := s.cfg.Audit.Append(ctx, &audit.Entry{
		Kind: audit.KindAttest, Record: rec.ID, Namespace: e.Namespace, Peer: c.peer, Actor: c.id, Action: "attestation-service", TEE: rec.TEE,
		Simulated: p.Coffer.Simulated, Status: string(p.Status), Initdata: p.Coffer.Initdata.String(), Token: res.ID,
	}); err != nil {
		return "", s.denied(ctx, rec, unaudited(err))
	}
	return res.Token, nil
}

// appraise runs the verifiers. A parser that panics on hostile evidence denies
// this one request.
func (s *Service) appraise(ctx context.Context, id string, e *appraisal.Evaluation) (res *appraisal.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("verifier panicked", "tee", e.Requests[0].TEE, "panic", p, "stack", string(debug.Stack()))
			err = &denial.Denial{Reason: ReasonVerifierFault, Component: Component, Claim: "evidence", Detail: "the verifier failed on this evidence"}
		}
	}()
	return s.cfg.Service.Evaluate(ctx, id, e)
}

// denied records a refusal.
func (s *Service) denied(ctx context.Context, rec trusteeapi.Record, err error) error {
	if d, ok := denial.As(err); ok && d.RecordID == "" && !errors.Is(err, tenant.ErrInvalid) {
		return s.cfg.Book.Deny(ctx, rec, d)
	}
	return err
}

// challenge gives what evidence of a TEE is to answer: a nonce, or for Secure
// Execution a request to the ultravisor. Whether it is fresh is for whoever asked to
// check: nothing is kept.
func (s *Service) challenge(ctx context.Context, tee string) (string, error) {
	if tee == "" || len(tee) > maxTEE {
		return "", bad("tee: missing or too long")
	}
	c, _, err := s.cfg.Service.Challenge(ctx, s.cfg.Namespace, &kbs.Request{
		Version: kbs.ProtocolVersion, TEE: tee, ExtraParams: json.RawMessage(`""`),
	}, session.NewNonce())
	if err != nil {
		return "", s.denied(ctx, trusteeapi.Record{Kind: "auth", Namespace: s.cfg.Namespace, Peer: callerOf(ctx).peer, TEE: tee}, err)
	}
	return c.Nonce, nil
}

// setPolicy registers an appraisal policy.
func (s *Service) setPolicy(ctx context.Context, name, text string) error {
	if err := s.change(ctx, "SetAttestationPolicy", name); err != nil {
		return err
	}
	_, err := s.cfg.Registry.SetPolicy(ctx, s.cfg.Namespace, name, callerOf(ctx).id, text)
	return err
}

// change demands an administrator and puts a change into the audit log before it
// happens.
func (s *Service) change(ctx context.Context, action, what string) error {
	c := callerOf(ctx)
	if !c.admin {
		return s.denied(ctx, trusteeapi.Record{Kind: "admin", Namespace: s.cfg.Namespace, Peer: c.peer}, &denial.Denial{
			Reason: ReasonForbidden, Component: Component, Claim: action, Measured: c.String(), Expected: "a certificate of an administrator",
			Source: "certificate authorities of this listener",
		})
	}
	if len(what) > 512 {
		what = what[:512]
	}
	if err := s.cfg.Audit.Append(ctx, &audit.Entry{
		Kind: audit.KindAdmin, Record: record.NewID(), Actor: c.id, Action: action, Namespace: s.cfg.Namespace, Resource: what, Peer: c.peer,
	}); err != nil {
		return unaudited(err)
	}
	return nil
}

func unaudited(err error) error {
	return release.Unrecorded(Component, err)
}

func bad(format string, a ...any) error {
	return httpio.BadRequest(httpio.TypeAttestation, fmt.Sprintf(format, a...))
}
