package simhw

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	q := &Request{ID: 7, Op: OpExtendRegister, Arg: 3, Payload: []byte("digest")}
	b, err := q.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadRequest(bytes.NewReader(b))
	if err != nil || got.ID != 7 || got.Op != OpExtendRegister || got.Arg != 3 || string(got.Payload) != "digest" {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range b { // any cut is an error, and only nothing is an orderly end
		if _, err := ReadRequest(bytes.NewReader(b[:i])); err == nil || (i > 0 && errors.Is(err, io.EOF) && !errors.Is(err, ErrMalformed) && i >= headerSize) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	for _, i := range []int{0, 3, 14, 15, 19} {
		bent := bytes.Clone(b)
		bent[i] ^= 0x80
		if _, err := ReadRequest(bytes.NewReader(bent)); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func TestResponseSkipsLeftovers(t *testing.T) {
	old, _ := (&Response{ID: 1, Payload: []byte("for a process that is gone")}).Encode()
	mine, _ := (&Response{ID: 2, Status: Failed, Payload: bytes.Repeat([]byte("x"), MaxText+5)}).Encode()
	in := append(append(bytes.Clone(old[9:]), old...), mine...)
	a, err := ReadResponse(bytes.NewReader(in), 2)
	if err != nil || a.Status != Failed || len(a.Payload) != MaxText {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := ReadResponse(bytes.NewReader(make([]byte, maxSkip+100)), 2); !errors.Is(err, ErrMalformed) {
		t.Errorf("endless nonsense: %v", err)
	}
}

func TestBlobs(t *testing.T) {
	p := JoinBlobs([]byte("a"), nil, []byte("bcd"))
	b, err := SplitBlobs(p, 3)
	if err != nil || string(b[0]) != "a" || len(b[1]) != 0 || string(b[2]) != "bcd" {
		t.Fatalf("%q, %v", b, err)
	}
	for _, bad := range [][]byte{p[:len(p)-1], append(bytes.Clone(p), 0), {0xff, 0xff, 0xff, 0xff}, nil} {
		if _, err := SplitBlobs(bad, 3); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func TestHello(t *testing.T) {
	if _, err := ParseHello([]byte(`{"tee":"snp","provider":"sev_guest","note":"simulated"}`)); err != nil {
		t.Error(err)
	}
	if h, err := ParseHello([]byte(`{"tee":"snp","provider":"x","note":"y","devices":["nvidia"]}`)); err != nil || len(h.Devices) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	for _, bad := range []string{``, `{}`, `{"tee":"snp","provider":"x","note":"y","devices":["a"` + strings.Repeat(`,"a"`, 16) + `]}`, `{"tee":"snp","provider":"x","note":"y","more":1}`, `{"tee":"snp","provider":"x","note":"y"}{}`} {
		if _, err := ParseHello([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func FuzzFrames(f *testing.F) {
	q, _ := (&Request{ID: 7, Op: OpReport, Payload: make([]byte, 64)}).Encode()
	a, _ := (&Response{ID: 7, Payload: JoinBlobs([]byte("report"), nil)}).Encode()
	f.Add(q)
	f.Add(a)
	f.Add([]byte(`{"tee":"snp","provider":"sev_guest","note":"simulated"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ReadRequest(bytes.NewReader(b)); err == nil {
			if e, err := q.Encode(); err != nil || !bytes.HasPrefix(b, e) {
				t.Errorf("a request does not survive: %v", err)
			}
		}
		if a, err := ReadResponse(bytes.NewReader(b), 7); err == nil {
			if _, err := a.Encode(); err != nil {
				t.Error(err)
			}
			for n := range 3 {
				if bl, err := SplitBlobs(a.Payload, n); err == nil && !bytes.Equal(JoinBlobs(bl...), a.Payload) {
					t.Error("blobs do not survive")
				}
			}
		}
		_, _ = ParseHello(b)
	})
}
