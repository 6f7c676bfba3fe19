package asapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cofferproject/coffer/api/aspb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/rvpspb"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// grpcServer makes the server of both services, or of reference values alone.
func (s *Service) grpcServer(attestation bool) *grpc.Server {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(httpio.MaxBody), grpc.MaxSendMsgSize(httpio.MaxBody), grpc.UnaryInterceptor(s.guard))
	h := health.NewServer()
	if attestation {
		aspb.RegisterAttestationServiceServer(g, attestationServer{s: s})
		h.SetServingStatus(aspb.AttestationService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	rvpspb.RegisterReferenceValueProviderServiceServer(g, referenceServer{s: s})
	h.SetServingStatus(rvpspb.ReferenceValueProviderService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(g, healthServer{h})
	return g
}

// guard refuses what a caller says in fields that nobody here reads, and keeps a
// panic from taking the process along: gRPC has no net of its own.
func (s *Service) guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("call panicked", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			out, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	if m, ok := req.(proto.Message); !ok || hasUnknown(m.ProtoReflect()) {
		return nil, status.Error(codes.InvalidArgument, "request: unknown field")
	}
	return next(ctx, req)
}

// hasUnknown looks into a message and those in its lists. None of ours has messages
// elsewhere, and gRPC bounds their size.
func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() && f.Message() != nil {
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		}
		return !found
	})
	return found
}

// healthServer answers and does not watch: a stream would hold a slot for ever.
type healthServer struct{ healthpb.HealthServer }

// Watch is refused.
func (healthServer) Watch(*healthpb.HealthCheckRequest, grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return status.Error(codes.Unimplemented, "ask by Check")
}

// isGRPC tells gRPC from REST on the one listener.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

type attestationServer struct {
	aspb.UnimplementedAttestationServiceServer
	s *Service
}

// AttestationEvaluate implements aspb.AttestationServiceServer.
func (a attestationServer) AttestationEvaluate(ctx context.Context, m *aspb.AttestationRequest) (*aspb.AttestationResponse, error) {
	e, err := evaluationOf(m)
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	token, err := a.s.evaluate(ctx, e)
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	return &aspb.AttestationResponse{AttestationToken: token}, nil
}

// SetAttestationPolicy implements aspb.AttestationServiceServer.
func (a attestationServer) SetAttestationPolicy(ctx context.Context, m *aspb.SetPolicyRequest) (*aspb.SetPolicyResponse, error) {
	text, err := unbase64("policy", m.GetPolicy())
	if err == nil {
		err = a.s.setPolicy(ctx, m.GetPolicyId(), string(text))
	}
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	return &aspb.SetPolicyResponse{}, nil
}

// GetAttestationChallenge implements aspb.AttestationServiceServer.
func (a attestationServer) GetAttestationChallenge(ctx context.Context, m *aspb.ChallengeRequest) (*aspb.ChallengeResponse, error) {
	nonce, err := a.s.challenge(ctx, m.GetInner()["tee"])
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	return &aspb.ChallengeResponse{AttestationChallenge: nonce}, nil
}

// evaluationOf reads the published message.
func evaluationOf(m *aspb.AttestationRequest) (*appraisal.Evaluation, error) {
	e, err := withPolicy(m.GetPolicyIds())
	if err != nil {
		return nil, err
	}
	if n := len(m.GetVerificationRequests()); n > maxRequests {
		return nil, bad("verification_requests: %d, at most %d", n, maxRequests)
	}
	for _, v := range m.GetVerificationRequests() {
		r := appraisal.EvaluationRequest{TEE: v.GetTee(), Hash: v.GetRuntimeDataHashAlgorithm()}
		if r.Evidence, err = evidence(v.GetEvidence()); err != nil {
			return nil, err
		}
		switch d := v.GetRuntimeData().(type) {
		case *aspb.IndividualAttestationRequest_RawRuntimeData:
			r.Raw, err = unbase64("raw_runtime_data", d.RawRuntimeData)
		case *aspb.IndividualAttestationRequest_StructuredRuntimeData:
			r.Structured = json.RawMessage(d.StructuredRuntimeData)
		}
		if err != nil {
			return nil, err
		}
		switch d := v.GetInitData().(type) {
		case *aspb.IndividualAttestationRequest_InitDataDigest:
			r.InitdataDigest, err = unbase64("init_data_digest", d.InitDataDigest)
		case *aspb.IndividualAttestationRequest_InitDataToml:
			r.Initdata = []byte(d.InitDataToml)
		}
		if err != nil {
			return nil, err
		}
		e.Requests = append(e.Requests, r)
	}
	return e, nil
}

// maxRequests bounds the pieces of evidence in one request.
const maxRequests = 64

// withPolicy takes at most one policy id: the published service passes over all
// but the first, so that what a caller wanted judged would not be.
func withPolicy(ids []string) (*appraisal.Evaluation, error) {
	switch {
	case len(ids) > 1:
		return nil, bad("policy_ids: %d, at most one can be judged by", len(ids))
	case len(ids) == 1:
		return &appraisal.Evaluation{Policy: ids[0]}, nil
	}
	return &appraisal.Evaluation{}, nil
}

// evidence decodes one piece of evidence, which is JSON.
func evidence(s string) (json.RawMessage, error) {
	b, err := unbase64("evidence", s)
	if err != nil {
		return nil, err
	}
	if !json.Valid(b) {
		return nil, bad("evidence: not JSON")
	}
	return b, nil
}

// unbase64 takes the URL alphabet, with or without padding. The result is not nil.
func unbase64(name, s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, bad("%s: not base64url", name)
	}
	if b == nil {
		b = []byte{}
	}
	return b, nil
}

// grpcError gives the status of an error. The published services say Aborted with
// the whole chain of causes; here the code says what kind it is, and the peer
// learns reason, claim and record.
func (s *Service) grpcError(ctx context.Context, err error) error {
	var b *httpio.Bad
	if errors.As(err, &b) {
		return status.Error(codes.InvalidArgument, b.Detail)
	}
	if code, ok := registryCode(err); ok {
		return status.Error(code, err.Error())
	}
	d, ok := denial.As(err)
	if !ok {
		if ctx.Err() == nil {
			s.cfg.Log.Error("request failed", "service", "grpc", "error", err)
		}
		return status.Error(codes.Internal, "internal error")
	}
	p := d.Public()
	text := string(p.Reason) + ": " + p.Claim
	if p.RecordID != "" {
		text += " (record " + p.RecordID + ")"
	}
	switch d.Reason {
	case release.ReasonAudit:
		return status.Error(codes.Unavailable, text)
	case appraisal.ReasonTEEUnsupported:
		return status.Error(codes.Unimplemented, text)
	}
	return status.Error(codes.PermissionDenied, text)
}

// registryCode gives the code of an administrator's mistake.
func registryCode(err error) (codes.Code, bool) {
	switch {
	case errors.Is(err, tenant.ErrInvalid):
		return codes.InvalidArgument, true
	case errors.Is(err, tenant.ErrNotFound):
		return codes.NotFound, true
	case errors.Is(err, tenant.ErrConflict), errors.Is(err, tenant.ErrLimit):
		return codes.FailedPrecondition, true
	}
	return 0, false
}
