package asapi

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Handler gives the Attestation Service with everything that the published one has
// on its port: gRPC, REST, the reference values' service and the key set. admins
// may change policies and reference values; nil: nobody may.
func (s *Service) Handler(admins *x509.CertPool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /.well-known/jwks.json", s.jwks)
	mux.HandleFunc("POST /attestation", s.rest(func(r *http.Request, body []byte) (any, error) {
		e, err := DecodeEvaluation(body)
		if err != nil {
			return nil, err
		}
		token, err := s.evaluate(r.Context(), e)
		return text(token), err
	}))
	mux.HandleFunc("POST /challenge", s.rest(func(r *http.Request, body []byte) (any, error) {
		c, err := decode[challengeDoc](body)
		if err != nil {
			return nil, err
		}
		nonce, err := s.challenge(r.Context(), c.TEE)
		return text(nonce), err
	}))
	mux.HandleFunc("POST /policy", s.rest(func(r *http.Request, body []byte) (any, error) {
		p, err := decode[policyDoc](body)
		if err != nil {
			return nil, err
		}
		rego, err := unbase64("policy", p.Policy)
		if err != nil {
			return nil, err
		}
		return nil, s.setPolicy(r.Context(), p.ID, string(rego))
	}))
	mux.HandleFunc("GET /policy", s.rest(func(r *http.Request, _ []byte) (any, error) { return s.policyIDs(r) }))
	return s.serve(s.grpcServer(true), mux, admins)
}

// ReferenceHandler gives the Reference Value Provider Service alone.
func (s *Service) ReferenceHandler(admins *x509.CertPool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	return s.serve(s.grpcServer(false), mux, admins)
}

func (s *Service) serve(grpc, rest http.Handler, admins *x509.CertPool) http.Handler {
	return identify(admins, s.limited(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isGRPC(r) {
			grpc.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})))
}

func (s *Service) jwks(w http.ResponseWriter, r *http.Request) {
	b, err := s.cfg.JWKS(r.Context(), s.cfg.Namespace)
	if err != nil {
		s.cfg.Log.Error("giving the key set failed", "error", err)
		httpio.WriteError(w, http.StatusServiceUnavailable, httpio.TypeInternal, "the key set cannot be read")
		return
	}
	httpio.WriteJWKS(w, b)
}

// text is an answer that is no JSON.
type text string

// rest serves one REST call.
func (s *Service) rest(call func(*http.Request, []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, done, err := s.cfg.Bodies.Read(w, r, httpio.MaxBody)
		if err != nil {
			httpio.WriteBodyError(w, err)
			return
		}
		defer done()
		out, err := call(r, body)
		if err == nil {
			switch v := out.(type) {
			case nil:
			case text:
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				w.Header().Set("X-Content-Type-Options", "nosniff")
				w.Write([]byte(v))
			default:
				err = httpio.WriteJSON(w, http.StatusOK, out)
			}
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
}

// fail answers an error: the published service says 500 with the whole chain of
// causes.
func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	var b *httpio.Bad
	switch {
	case errors.As(err, &b):
		httpio.WriteError(w, http.StatusBadRequest, b.Type, b.Detail)
		return
	case errors.Is(err, tenant.ErrInvalid):
		httpio.WriteError(w, http.StatusBadRequest, httpio.TypeSerde, err.Error())
		return
	case errors.Is(err, tenant.ErrConflict), errors.Is(err, tenant.ErrLimit):
		httpio.WriteError(w, http.StatusConflict, httpio.TypeSerde, err.Error())
		return
	}
	d, ok := denial.As(err)
	if !ok {
		if r.Context().Err() == nil {
			s.cfg.Log.Error("request failed", "service", "rest", "path", r.URL.Path, "error", err)
		}
		httpio.WriteError(w, http.StatusInternalServerError, httpio.TypeInternal, "internal error")
		return
	}
	status, typ, detail := http.StatusForbidden, httpio.TypeAttestation, "Attestation error: evidence refused"
	switch d.Reason {
	case ReasonForbidden:
		typ, detail = httpio.TypeAdmin, "not allowed without an administrator's certificate"
	case release.ReasonAudit:
		status, typ, detail = http.StatusServiceUnavailable, httpio.TypeInternal, "audit log unavailable"
	}
	p := d.Public()
	httpio.Write(w, status, kbs.ErrorInfo{Type: httpio.TypePrefix + typ, Detail: detail, Reason: string(p.Reason), Claim: p.Claim, Record: p.RecordID})
}

// policyIDs lists the policies as published: [{"policy-id": ".."}].
func (s *Service) policyIDs(r *http.Request) (any, error) {
	l, err := s.cfg.Registry.Policies(r.Context(), s.cfg.Namespace)
	if err != nil {
		return nil, err
	}
	out := []map[string]string{}
	for _, p := range l {
		out = append(out, map[string]string{"policy-id": p.Name})
	}
	return out, nil
}

type policyDoc struct {
	Type   string `json:"type"` // ignored, as published
	ID     string `json:"policy_id"`
	Policy string `json:"policy"`
}

type challengeDoc struct {
	TEE    string          `json:"tee"`
	Params json.RawMessage `json:"tee_params"`
}

// evaluationDoc is the body of POST /attestation.
type evaluationDoc struct {
	Requests []requestDoc `json:"verification_requests"`
	Policies *[]string    `json:"policy_ids"`
}

type requestDoc struct {
	TEE      string `json:"tee"`
	Evidence string `json:"evidence"`
	Runtime  *struct {
		Raw        *string         `json:"raw"`
		Structured json.RawMessage `json:"structured"`
	} `json:"runtime_data"`
	Initdata *struct {
		Digest *string `json:"init_data_digest"`
		TOML   *string `json:"init_data_toml"`
	} `json:"init_data"`
	Hash string `json:"runtime_data_hash_algorithm"`
}

// DecodeEvaluation reads the published body of POST /attestation.
func DecodeEvaluation(body []byte) (*appraisal.Evaluation, error) {
	doc, err := decode[evaluationDoc](body)
	if err != nil {
		return nil, err
	}
	if doc.Policies == nil {
		return nil, bad("policy_ids: missing")
	}
	if len(doc.Requests) > maxRequests {
		return nil, bad("verification_requests: %d, at most %d", len(doc.Requests), maxRequests)
	}
	e, err := withPolicy(*doc.Policies)
	if err != nil {
		return nil, err
	}
	for i := range doc.Requests {
		r, err := doc.Requests[i].request()
		if err != nil {
			return nil, err
		}
		e.Requests = append(e.Requests, *r)
	}
	return e, nil
}

func (d *requestDoc) request() (*appraisal.EvaluationRequest, error) {
	r := &appraisal.EvaluationRequest{TEE: d.TEE, Hash: d.Hash}
	var err error
	if r.Evidence, err = evidence(d.Evidence); err != nil {
		return nil, err
	}
	if d.Runtime != nil {
		if (d.Runtime.Raw == nil) == (d.Runtime.Structured == nil) {
			return nil, bad("runtime_data: neither or both of raw and structured")
		}
		if d.Runtime.Raw != nil {
			if r.Raw, err = unbase64("runtime_data", *d.Runtime.Raw); err != nil {
				return nil, err
			}
		}
		r.Structured = d.Runtime.Structured
	}
	if d.Initdata == nil {
		return r, nil
	}
	if (d.Initdata.Digest == nil) == (d.Initdata.TOML == nil) {
		return nil, bad("init_data: neither or both of init_data_digest and init_data_toml")
	}
	if d.Initdata.TOML != nil {
		r.Initdata = []byte(*d.Initdata.TOML)
		return r, nil
	}
	r.InitdataDigest, err = unbase64("init_data_digest", *d.Initdata.Digest)
	return r, err
}

// decode reads a request document strictly.
func decode[T any](body []byte) (*T, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	v := new(T)
	if err := d.Decode(v); err != nil {
		return nil, bad("request: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("request: data after the document")
	}
	return v, nil
}
