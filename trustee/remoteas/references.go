package remoteas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/rvpspb"
	"github.com/cofferproject/coffer/tee/policy"
)

// ReasonReferences says that the service with the reference values gave none.
// docs/denials.md explains it.
const ReasonReferences denial.Reason = "reference-values-unavailable"

const (
	askWithin = 1500 * time.Millisecond // an evaluation has policy.MaxTime in all
	keepFor   = 5 * time.Second         // how late a change counts
	maxKept   = 4096                    // names
)

// References asks a Reference Value Provider Service in another process, when a
// policy queries a value. What it answered counts for a few seconds, so that an
// attestation asks once for each name and its explanation sees the same; an answer
// that is older, or that never came, counts for nothing.
type References struct {
	rvps rvpspb.ReferenceValueProviderServiceClient
	name string
	now  func() time.Time
	open chan struct{}

	mu   sync.Mutex
	kept map[string]answer
}

type answer struct {
	value any
	known bool
	at    time.Time
}

// NewReferences takes a connection and what the service is called.
func NewReferences(c *grpc.ClientConn, name string, now func() time.Time) *References {
	return &References{
		rvps: rvpspb.NewReferenceValueProviderServiceClient(c), name: name, now: now, open: make(chan struct{}, calls), kept: map[string]answer{},
	}
}

// Policy gives the values as policies query them.
func (r *References) Policy() *policy.References {
	return policy.LookupReferences(r.Query, "the reference value provider service "+r.name)
}

// Query gives the value of a name; false: there is none.
func (r *References) Query(ctx context.Context, name string) (any, bool, error) {
	now := r.now()
	r.mu.Lock()
	a, ok := r.kept[name]
	r.mu.Unlock()
	if d := now.Sub(a.at); ok && d >= 0 && d < keepFor {
		return a.value, a.known, nil
	}
	a, err := r.ask(ctx, name)
	if err != nil {
		return nil, false, &denial.Denial{
			Reason: ReasonReferences, Component: Component, Claim: fmt.Sprintf("reference value %.80q", name), Measured: err.Error(),
			Expected: "an answer within " + askWithin.String(), Source: r.name,
		}
	}
	a.at = now
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) >= maxKept { // names come from policies, which may compute them
		clear(r.kept)
	}
	r.kept[name] = a
	return a.value, a.known, nil
}

func (r *References) ask(ctx context.Context, name string) (a answer, err error) {
	select {
	case r.open <- struct{}{}:
		defer func() { <-r.open }()
	default:
		return a, fmt.Errorf("%d questions are open", calls)
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	m, err := r.rvps.QueryReferenceValue(ctx, &rvpspb.ReferenceValueQueryRequest{ReferenceValueId: name})
	if err != nil {
		st := status.Convert(err)
		if st.Code() == codes.Unknown && ctx.Err() != nil {
			return a, ctx.Err()
		}
		return a, fmt.Errorf("%s: %.*s", st.Code(), maxText, st.Message())
	}
	if m.ReferenceValueResults == nil {
		return a, nil
	}
	a.value, err = decodeValue(m.GetReferenceValueResults())
	a.known = err == nil && a.value != nil // null is what an unknown name gives
	return a, err
}

// decodeValue reads the JSON of a value within the bounds of reference values.
func decodeValue(text string) (any, error) {
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("value of %d bytes, at most %d", len(text), maxAnswer)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("value: data after it")
	}
	if v == nil {
		return nil, nil
	}
	b := &refvalue.Bundle{Version: refvalue.Version, Values: map[string]any{"value": v}}
	return v, b.Validate()
}
