package keyholder

import (
	"bytes"
	"testing"

	"github.com/cofferproject/coffer/guest/keyholder/layerkey"
)

func FuzzToken(f *testing.F) {
	f.Add("e30.eyJpYXQiOjEsImV4cCI6Mn0.")
	f.Add("eyJhbGciOiJFUzI1NiIsImp3ayI6eyJ4NWMiOlsiQUEiXX19.eyJpYXQiOjEsImV4cCI6Mn0.AAAA")
	f.Fuzz(func(_ *testing.T, s string) {
		if t, err := parseToken(s); err == nil && len(t.chain) > 0 {
			_ = t.verify()
		}
	})
}

func FuzzUnwrapInput(f *testing.F) {
	f.Add([]byte(`{"op":"keyunwrap","keywrapparams":{},"keyunwrapparams":{"dc":null,"annotation":"e30="}}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseUnwrapInput(b) })
}

func FuzzLayerKeyMessage(f *testing.F) {
	f.Add([]byte("u\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		op, body, err := layerkey.ReadMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := layerkey.WriteMessage(&out, op, body); err != nil || !bytes.HasPrefix(b, out.Bytes()) {
			t.Errorf("%q became %q: %v", b, out.Bytes(), err)
		}
	})
}
