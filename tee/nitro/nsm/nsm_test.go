package nsm

import (
	"context"
	"errors"
	"testing"

	"github.com/cofferproject/coffer/tee/nitro/cbor"
)

// fixed is a module that always gives the same answer.
type fixed []byte

func (f fixed) NSM(context.Context, []byte) ([]byte, error) { return f, nil }

func answer(t *testing.T, v any) Module {
	b, err := cbor.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return Module{fixed(b)}
}

func TestAnswers(t *testing.T) {
	ctx := t.Context()
	var refused Error
	if _, err := answer(t, cbor.Map{{Key: "Error", Value: "InvalidArgument"}}).Attest(ctx, nil, nil, nil); !errors.As(err, &refused) || refused != "InvalidArgument" {
		t.Errorf("%v", err)
	}
	if err := answer(t, "LockPCR").Lock(ctx, 16); err != nil {
		t.Error(err)
	}
	for name, v := range map[string]any{
		"a text": "x", "a number": uint64(1), "nothing": cbor.Map{}, "two": cbor.Map{{Key: "Attestation", Value: cbor.Map{}}, {Key: "x", Value: nil}}, "another request": cbor.Map{{Key: "ExtendPCR", Value: cbor.Map{}}},
		"no document": cbor.Map{{Key: "Attestation", Value: cbor.Map{}}}, "empty document": cbor.Map{{Key: "Attestation", Value: cbor.Map{{Key: "document", Value: []byte{}}}}},
	} {
		if _, err := answer(t, v).Attest(ctx, nil, nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, v := range map[string]any{
		"short value": cbor.Map{{Key: "DescribePCR", Value: cbor.Map{{Key: "lock", Value: true}, {Key: "data", Value: make([]byte, 32)}}}},
		"no lock":     cbor.Map{{Key: "DescribePCR", Value: cbor.Map{{Key: "data", Value: make([]byte, 48)}}}},
	} {
		if _, _, err := answer(t, v).Read(ctx, 0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := answer(t, cbor.Map{{Key: "DescribeNSM", Value: cbor.Map{{Key: "module_id", Value: "x"}}}}).Describe(ctx); err == nil {
		t.Error("half a description accepted")
	}
	if _, err := (Module{fixed(make([]byte, MaxResponse+1))}).Describe(ctx); err == nil {
		t.Error("a huge response accepted")
	}
	if _, err := (Module{fixed{}}).Attest(ctx, make([]byte, MaxRequest), nil, nil); err == nil {
		t.Error("a huge request sent")
	}
}

// A machine without the device has no module.
func TestNoDevice(t *testing.T) {
	if k, err := OpenKernel(); err == nil {
		k.Close()
		t.Skip("this machine has /dev/nsm")
	}
}

func FuzzResponse(f *testing.F) {
	for _, v := range []any{"LockPCR", cbor.Map{{Key: "Error", Value: "x"}}, cbor.Map{{Key: "DescribePCR", Value: cbor.Map{{Key: "lock", Value: true}, {Key: "data", Value: make([]byte, 48)}}}}} {
		b, err := cbor.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := Module{fixed(b)}
		if v, _, err := m.Read(t.Context(), 0); err == nil && len(v) != 48 {
			t.Errorf("%x", v)
		}
		_, _ = m.Describe(t.Context())
		_, _ = m.Attest(t.Context(), nil, nil, nil)
	})
}
