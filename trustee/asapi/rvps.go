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

// DecodeMessage reads a message and gives the values that it registers, by their
// names. "sample" is the only type: CoRIM and SWID documents are refused, since
// the published service takes them without looking at their signatures.
func DecodeMessage(b []byte) (map[string]any, error) {
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
	case m.Type != "sample":
		return nil, fmt.Errorf("message: type %.20q is not supported, only sample", m.Type)
	}
	raw, err := base64.StdEncoding.DecodeString(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("message: payload: %w", err)
	}
	return decodeValues(raw)
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
	values, err := DecodeMessage(message)
	if err != nil {
		return httpio.BadRequest(httpio.TypeSerde, err.Error())
	}
	_, err = s.cfg.Registry.MergeReferenceValues(ctx, s.cfg.Namespace, Bundle, tool, callerOf(ctx).id, values)
	return err
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
