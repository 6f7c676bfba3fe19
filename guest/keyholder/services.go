package keyholder

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/keyproviderpb"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/tee/aael"
)

// rpcError gives a precise code; the text is the cause, the trustee's reason,
// claim and record id included.
func rpcError(err error) error {
	var u *unavailableError
	var a *answerDenial
	d, denied := denial.As(err)
	code := codes.Internal
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.As(err, &a) && a.code == http.StatusNotFound:
		code = codes.NotFound
	case errors.As(err, &a) && a.code == http.StatusUnauthorized:
		code = codes.Unauthenticated
	case denied && (d.Reason == ReasonNoTrustee):
		code = codes.FailedPrecondition
	case denied && d.Reason == ReasonEventMalformed:
		code = codes.InvalidArgument
	case denied && (d.Reason == ReasonEventRate || d.Reason == ReasonEventLogFull):
		code = codes.ResourceExhausted
	case denied:
		code = codes.PermissionDenied
	case errors.As(err, &u):
		code = codes.Unavailable
	}
	return status.Error(code, err.Error())
}

// resource parses a URI and fetches it.
func (s *Server) resource(ctx context.Context, uri string) ([]byte, error) {
	u, err := resource.Parse(uri)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.client == nil {
		return nil, &denial.Denial{Reason: ReasonNoTrustee, Component: Component, Claim: "resource " + u.Name(), Detail: s.noTrustee.Error()}
	}
	return s.client.resource(ctx, u)
}

// dataHub serves the confidential data hub's services.
type dataHub struct{ s *Server }

// GetResource fetches a resource by its URI.
func (h *dataHub) GetResource(ctx context.Context, r *cdhpb.GetResourceRequest) (*cdhpb.GetResourceResponse, error) {
	b, err := h.s.resource(ctx, r.GetResourcePath())
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return nil, err
		}
		return nil, rpcError(err)
	}
	return &cdhpb.GetResourceResponse{Resource: b}, nil
}

// UnsealSecret is refused until sealed secrets are built: passing a sealed text
// on as if it were a secret is the published defect.
func (h *dataHub) UnsealSecret(context.Context, *cdhpb.UnsealSecretInput) (*cdhpb.UnsealSecretOutput, error) {
	return nil, status.Error(codes.Unimplemented, "sealed secrets are not supported yet")
}

// WrapKey is the owner's side, not the guest's.
func (h *dataHub) WrapKey(context.Context, *keyproviderpb.KeyProviderKeyWrapProtocolInput) (*keyproviderpb.KeyProviderKeyWrapProtocolOutput, error) {
	return nil, status.Error(codes.Unimplemented, "the guest does not wrap keys")
}

// UnWrapKey opens an annotation packet that a verified manifest of the pod
// policy contains.
func (h *dataHub) UnWrapKey(ctx context.Context, r *keyproviderpb.KeyProviderKeyWrapProtocolInput) (*keyproviderpb.KeyProviderKeyWrapProtocolOutput, error) {
	packet, err := parseUnwrapInput(r.GetKeyProviderKeyWrapProtocolInput())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	opts, err := h.s.unwrap(ctx, h.s.gate, packet)
	if err != nil {
		return nil, rpcError(err)
	}
	defer clear(opts)
	return &keyproviderpb.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: unwrapOutput(opts)}, nil
}

// attestationAgent serves the attestation agent's service.
type attestationAgent struct{ s *Server }

// GetEvidence attests the caller's report data. It answers no challenge, so a
// trustee of ours would not take it for an attestation of this guest.
func (a *attestationAgent) GetEvidence(ctx context.Context, r *aapb.GetEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	if len(r.GetRuntimeData()) > 64 {
		return nil, status.Error(codes.InvalidArgument, "runtime data is longer than 64 bytes")
	}
	tee, err := a.s.tee.get(ctx)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	e, err := tee.Evidence(ctx, r.GetRuntimeData(), nil)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &aapb.GetEvidenceResponse{Evidence: e}, nil
}

// GetAdditionalEvidence attests the caller's report data by the devices beside
// the CPU that initdata asks for; empty bytes: it asks for none.
func (a *attestationAgent) GetAdditionalEvidence(ctx context.Context, r *aapb.GetAdditionalEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	if len(r.GetRuntimeData()) > 64 {
		return nil, status.Error(codes.InvalidArgument, "runtime data is longer than 64 bytes")
	}
	if _, err := a.s.tee.get(ctx); err != nil { // devices are opened after it
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	e, err := a.s.devices.evidence(ctx, r.GetRuntimeData())
	if err != nil {
		return nil, rpcError(err)
	}
	return &aapb.GetEvidenceResponse{Evidence: []byte(e)}, nil
}

// GetToken gives the KBS token. The TEE's private key, with which resources can
// be opened, goes along only if initdata says so.
func (a *attestationAgent) GetToken(ctx context.Context, r *aapb.GetTokenRequest) (*aapb.GetTokenResponse, error) {
	if r.GetTokenType() != "kbs" {
		return nil, status.Errorf(codes.InvalidArgument, "token type %.20q is not supported", r.GetTokenType())
	}
	if a.s.client == nil {
		return nil, status.Error(codes.FailedPrecondition, a.s.noTrustee.Error())
	}
	ses, err := a.s.client.session(ctx, nil)
	if err != nil {
		return nil, rpcError(err)
	}
	out := struct {
		Token   string `json:"token"`
		KeyPair string `json:"tee_keypair,omitempty"`
	}{Token: ses.token}
	if a.s.aa != nil && a.s.aa.InsecureExportTEEKey {
		der, err := x509.MarshalPKCS8PrivateKey(ses.key)
		if err != nil {
			return nil, status.Error(codes.Internal, "encoding the TEE key failed")
		}
		out.KeyPair = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		clear(der)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, status.Error(codes.Internal, "encoding the token failed")
	}
	return &aapb.GetTokenResponse{Token: b}, nil
}

// ExtendRuntimeMeasurement records an event of the guest's own.
func (a *attestationAgent) ExtendRuntimeMeasurement(ctx context.Context, r *aapb.ExtendRuntimeMeasurementRequest) (*aapb.ExtendRuntimeMeasurementResponse, error) {
	return a.s.extendRuntimeMeasurement(ctx, callerGuest, r)
}

func (s *Server) extendRuntimeMeasurement(ctx context.Context, from caller, r *aapb.ExtendRuntimeMeasurementRequest) (*aapb.ExtendRuntimeMeasurementResponse, error) {
	if s.events == nil {
		return &aapb.ExtendRuntimeMeasurementResponse{Result: aapb.RuntimeMeasurementResult_NOT_ENABLED}, nil
	}
	if _, err := s.tee.get(ctx); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	res, err := s.events.extend(ctx, from, aael.Event{Domain: r.GetDomain(), Operation: r.GetOperation(), Content: r.GetContent()}, r.RegisterIndex)
	if err != nil {
		return nil, rpcError(err)
	}
	return &aapb.ExtendRuntimeMeasurementResponse{Result: res}, nil
}

// BindInitData is done by the guest's init before anything is parsed.
func (a *attestationAgent) BindInitData(context.Context, *aapb.BindInitDataRequest) (*aapb.BindInitDataResponse, error) {
	return nil, status.Error(codes.Unimplemented, "initdata is bound at boot")
}

// GetTeeType gives the TEE's wire name.
func (a *attestationAgent) GetTeeType(ctx context.Context, _ *aapb.GetTeeTypeRequest) (*aapb.GetTeeTypeResponse, error) {
	tee, err := a.s.tee.get(ctx)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &aapb.GetTeeTypeResponse{Tee: tee.TEE()}, nil
}

// GetAdditionalTees gives the kinds of devices beside the CPU that initdata asks for.
func (a *attestationAgent) GetAdditionalTees(context.Context, *aapb.GetAdditionalTeesRequest) (*aapb.GetAdditionalTeesResponse, error) {
	return &aapb.GetAdditionalTeesResponse{AdditionalTees: a.s.devices.want}, nil
}

// eventRecorder is the attestation agent's API for workloads: one call of it, and
// no evidence, token or key.
type eventRecorder struct {
	notForWorkloads
	s *Server
}

// ExtendRuntimeMeasurement records an event of a workload.
func (e *eventRecorder) ExtendRuntimeMeasurement(ctx context.Context, r *aapb.ExtendRuntimeMeasurementRequest) (*aapb.ExtendRuntimeMeasurementResponse, error) {
	return e.s.extendRuntimeMeasurement(ctx, callerWorkload, r)
}

// notForWorkloads refuses every other call.
type notForWorkloads struct{}

var errNotForWorkloads = status.Error(codes.Unimplemented, "not served on this socket")

func (notForWorkloads) GetEvidence(context.Context, *aapb.GetEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	return nil, errNotForWorkloads
}

func (notForWorkloads) GetAdditionalEvidence(context.Context, *aapb.GetAdditionalEvidenceRequest) (*aapb.GetEvidenceResponse, error) {
	return nil, errNotForWorkloads
}

func (notForWorkloads) GetToken(context.Context, *aapb.GetTokenRequest) (*aapb.GetTokenResponse, error) {
	return nil, errNotForWorkloads
}

func (notForWorkloads) BindInitData(context.Context, *aapb.BindInitDataRequest) (*aapb.BindInitDataResponse, error) {
	return nil, errNotForWorkloads
}

func (notForWorkloads) GetTeeType(context.Context, *aapb.GetTeeTypeRequest) (*aapb.GetTeeTypeResponse, error) {
	return nil, errNotForWorkloads
}

func (notForWorkloads) GetAdditionalTees(context.Context, *aapb.GetAdditionalTeesRequest) (*aapb.GetAdditionalTeesResponse, error) {
	return nil, errNotForWorkloads
}
