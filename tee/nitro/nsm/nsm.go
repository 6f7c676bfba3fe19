// Package nsm speaks to the Nitro Secure Module: requests and responses in CBOR,
// as AWS's nsm-api has them, over the kernel's /dev/nsm or over the simulated
// module's own channel.
//
// Invariants: bounded, never panics; a response that is not exactly the expected
// one is an error.
//
// Trust zone: guest.
package nsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/nitro/cbor"
)

// Sizes that the kernel's driver takes, in bytes.
const (
	MaxRequest  = 0x1000
	MaxResponse = 0x3000
)

// Names of requests.
const (
	ReqAttestation = "Attestation"
	ReqDescribePCR = "DescribePCR"
	ReqExtendPCR   = "ExtendPCR"
	ReqLockPCR     = "LockPCR"
	ReqDescribeNSM = "DescribeNSM"
	respError      = "Error"
)

// Device passes one request to the module.
type Device interface {
	NSM(ctx context.Context, request []byte) ([]byte, error)
}

// Error is the module's own word for a refusal, such as "ReadOnlyIndex".
type Error string

func (e Error) Error() string { return "the Nitro Secure Module refuses: " + string(e) }

// Module is a Device with its requests typed.
type Module struct{ Device Device }

// Info is what the module says of itself.
type Info struct {
	ModuleID string // "i-0123...-enc0123..."
	Digest   string // "SHA384"
	PCRs     int
	Locked   map[int]bool
}

// Describe asks what the module is.
func (m Module) Describe(ctx context.Context) (*Info, error) {
	r, err := m.call(ctx, ReqDescribeNSM, nil)
	if err != nil {
		return nil, err
	}
	i := &Info{Locked: map[int]bool{}}
	id, ok1 := member[string](r, "module_id")
	digest, ok2 := member[string](r, "digest")
	n, ok3 := member[uint64](r, "max_pcrs")
	locked, ok4 := member[[]any](r, "locked_pcrs")
	if !ok1 || !ok2 || !ok3 || !ok4 || n > 1024 {
		return nil, errors.New("the Nitro Secure Module describes itself in another form")
	}
	i.ModuleID, i.Digest, i.PCRs = id, digest, int(n)
	for _, l := range locked {
		k, ok := l.(uint64)
		if !ok || k >= n {
			return nil, errors.New("the Nitro Secure Module describes itself in another form")
		}
		i.Locked[int(k)] = true
	}
	return i, nil
}

// Read gives a register's value, and whether it is locked.
func (m Module) Read(ctx context.Context, register int) (value []byte, locked bool, err error) {
	r, err := m.call(ctx, ReqDescribePCR, cbor.Map{{Key: "index", Value: register}})
	if err != nil {
		return nil, false, err
	}
	locked, ok1 := member[bool](r, "lock")
	value, ok2 := member[[]byte](r, "data")
	if !ok1 || !ok2 || len(value) != nitro.PCRSize {
		return nil, false, fmt.Errorf("register %d: another form of answer", register)
	}
	return value, locked, nil
}

// Extend extends a register, and gives its new value.
func (m Module) Extend(ctx context.Context, register int, data []byte) ([]byte, error) {
	r, err := m.call(ctx, ReqExtendPCR, cbor.Map{{Key: "index", Value: register}, {Key: "data", Value: data}})
	if err != nil {
		return nil, err
	}
	v, ok := member[[]byte](r, "data")
	if !ok || len(v) != nitro.PCRSize {
		return nil, fmt.Errorf("register %d: another form of answer", register)
	}
	return v, nil
}

// Lock locks a register: from then on documents show it and nobody extends it.
func (m Module) Lock(ctx context.Context, register int) error {
	_, err := m.call(ctx, ReqLockPCR, cbor.Map{{Key: "index", Value: register}})
	return err
}

// Attest gives an attestation document; nil for what is not to be in it.
func (m Module) Attest(ctx context.Context, userData, nonce, publicKey []byte) ([]byte, error) {
	opt := func(b []byte) any {
		if b == nil {
			return nil
		}
		return b
	}
	r, err := m.call(ctx, ReqAttestation, cbor.Map{
		{Key: "user_data", Value: opt(userData)}, {Key: "nonce", Value: opt(nonce)}, {Key: "public_key", Value: opt(publicKey)},
	})
	if err != nil {
		return nil, err
	}
	d, ok := member[[]byte](r, "document")
	if !ok || len(d) == 0 {
		return nil, errors.New("the Nitro Secure Module gave no document")
	}
	return d, nil
}

// call sends a request: a name alone, or a map of the name to its arguments. The
// response has the same form and name.
func (m Module) call(ctx context.Context, name string, args cbor.Map) (cbor.Map, error) {
	var v any = name
	if args != nil {
		v = cbor.Map{{Key: name, Value: args}}
	}
	req, err := cbor.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(req) > MaxRequest {
		return nil, fmt.Errorf("%s: request of %d bytes, at most %d", name, len(req), MaxRequest)
	}
	raw, err := m.Device.NSM(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r, err := parseResponse(name, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func parseResponse(name string, raw []byte) (cbor.Map, error) {
	if len(raw) > MaxResponse {
		return nil, fmt.Errorf("response of %d bytes, at most %d", len(raw), MaxResponse)
	}
	v, err := cbor.Decode(raw)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case string:
		if v == name {
			return cbor.Map{}, nil
		}
	case cbor.Map:
		if len(v) != 1 {
			break
		}
		if e, ok := member[string](v, respError); ok {
			if len(e) > 64 {
				e = e[:64]
			}
			return nil, Error(e)
		}
		if r, ok := member[cbor.Map](v, name); ok {
			return r, nil
		}
	}
	return nil, errors.New("response to something else")
}

func member[T any](m cbor.Map, name string) (T, bool) {
	x, _ := m.Get(name)
	v, ok := x.(T)
	return v, ok
}
