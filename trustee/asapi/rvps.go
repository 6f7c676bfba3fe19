package asapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/rvpspb"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Bundle is the name under which a namespace keeps what was registered by the
// published messages.
const Bundle = "rvps"

const (
	messageVersion = "0.1.0"
	maxValueName   = 1 << 10 // bytes
	tool           = "reference value message"
)

// Message is one published message to the Reference Value Provider Service.
type Message struct {
	Version string `json:"version"` // "" is 0.1.0
	Type    string `json:"type"`
	Payload string `json:"payload"` // standard base64
}

// Registration is what a message registers: values by their names, or a document.
type Registration struct {
	Values   map[string]any
	Document []byte // CoRIM or SWID tag
	Format   string // of the document, tenant.FormatCoRIM or FormatSWID
}

// DecodeMessage reads a message. A document is not looked at yet.
func DecodeMessage(b []byte) (*Registration, error) {
	if len(b) > httpio.MaxBody {
		return nil, fmt.Errorf("message: %d bytes, at most %d", len(b), httpio.MaxBody)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	m := new(Message)
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("message: data after the document")
	}
	switch {
	case m.Version != "" && m.Version != messageVersion:
		return nil, fmt.Errorf("message: version %.20q, only %s", m.Version, messageVersion)
	case m.Type != "sample" && m.Type != tenant.FormatCoRIM && m.Type != tenant.FormatSWID:
		return nil, fmt.Errorf("message: type %.20q is none of sample, corim, swid", m.Type)
	}
	raw, err := base64.StdEncoding.DecodeString(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("message: payload: %w", err)
	}
	if m.Type != "sample" {
		return &Registration{Document: raw, Format: m.Type}, nil
	}
	values, err := decodeValues(raw)
	return &Registration{Values: values}, err
}

// Register puts what a message registers into a namespace: values of samples into
// one bundle, a document into one of its own, with the signature that it has.
func Register(ctx context.Context, r *tenant.Registry, ns, actor string, message []byte) error {
	m, err := DecodeMessage(message)
	if err != nil {
		return httpio.BadRequest(httpio.TypeSerde, err.Error())
	}
	if m.Document == nil {
		_, err = r.MergeReferenceValues(ctx, ns, Bundle, tool, actor, m.Values)
		return err
	}
	name, format, err := tenant.DocumentName(m.Document)
	if err != nil {
		return err
	}
	if format != m.Format {
		return httpio.BadRequest(httpio.TypeSerde, fmt.Sprintf("message: type %s, and the payload is not", m.Format))
	}
	_, err = r.RegisterReferenceValues(ctx, ns, name, actor, m.Document)
	return err
}

// decodeValues reads an object of name to value within the bounds of reference
// values.
func decodeValues(raw []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var values map[string]any
	if err := d.Decode(&values); err != nil {
		return nil, fmt.Errorf("message: payload: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || len(values) == 0 {
		return nil, errors.New("message: payload: no values, or data after the object")
	}
	b := &refvalue.Bundle{Version: refvalue.Version, Values: values}
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("message: payload: %w", err)
	}
	return values, nil
}

// registerMessage takes a published message for an administrator.
func (s *Service) registerMessage(ctx context.Context, message []byte) error {
	if s.cfg.Query != nil {
		return httpio.BadRequest(httpio.TypeSerde, "reference values are in another service: register them there")
	}
	if err := s.change(ctx, "RegisterReferenceValue", Bundle); err != nil {
		return err
	}
	return Register(ctx, s.cfg.Registry, s.cfg.Namespace, callerOf(ctx).id, message)
}

type referenceServer struct {
	rvpspb.UnimplementedReferenceValueProviderServiceServer
	s *Service
}

// QueryReferenceValue implements rvpspb.ReferenceValueProviderServiceServer.
func (a referenceServer) QueryReferenceValue(ctx context.Context, m *rvpspb.ReferenceValueQueryRequest) (*rvpspb.ReferenceValueQueryResponse, error) {
	name := m.GetReferenceValueId()
	if name == "" || len(name) > maxValueName {
		return nil, a.s.grpcError(ctx, bad("reference_value_id: missing or too long"))
	}
	query := a.s.cfg.Query
	if query == nil {
		query = func(ctx context.Context, name string) (any, bool, error) {
			return a.s.cfg.Registry.ReferenceValue(ctx, a.s.cfg.Namespace, name)
		}
	}
	v, ok, err := query(ctx, name)
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	out := new(rvpspb.ReferenceValueQueryResponse)
	if !ok {
		return out, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	text := string(b)
	out.ReferenceValueResults = &text
	return out, nil
}

// RegisterReferenceValue implements rvpspb.ReferenceValueProviderServiceServer.
func (a referenceServer) RegisterReferenceValue(ctx context.Context, m *rvpspb.ReferenceValueRegisterRequest) (*rvpspb.ReferenceValueRegisterResponse, error) {
	if err := a.s.registerMessage(ctx, []byte(m.GetMessage())); err != nil {
		return nil, a.s.grpcError(ctx, err)
	}
	return &rvpspb.ReferenceValueRegisterResponse{}, nil
}
