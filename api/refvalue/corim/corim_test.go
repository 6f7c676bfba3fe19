package corim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/cofferproject/coffer/api/refvalue"
)

// outside is the manifest that the documentation of github.com/veraison/corim prints.
const outside = "d901f5a30063666f6f0181d901fa58a5a40065656e2d474201a100676578616d706c650281a4006941434d45204c74642e01d8207468747470733a2f2f" +
	"61636d652e6578616d706c65028101206f3132332046616b652053747265657404a1008182a100a300d8255031fb5abf023e4992aa4e95f9c1503bfa016941434d45" +
	"204c74642e026e526f616452756e6e657220322e3081a200d8255031fb5abf023e4992aa4e95f9c1503bfa01a10281820644abcdef00037822687474703a2f2f6578" +
	"616d706c652e636f6d2f6578616d706c652d70726f66696c65"

func TestVector(t *testing.T) {
	b, err := hex.DecodeString(outside)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"ACME Ltd./RoadRunner 2.0/31fb5abf-023e-4992-aa4e-95f9c1503bfa/digests": []any{"abcdef00"}}
	if m.ID != "foo" || m.Signed || !reflect.DeepEqual(m.Values, want) {
		t.Errorf("%+v", m)
	}
	// As earlier tools wrap it.
	if w, err := Parse(append([]byte{0xd9, 0x01, 0xf4, 0xd9, 0x01, 0xf6}, b...)); err != nil || !reflect.DeepEqual(w.Values, want) {
		t.Errorf("%+v %v", w, err)
	}
}

type object = map[any]any

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func comid(t testing.TB, env object, measurements ...object) cbor.Tag {
	t.Helper()
	return cbor.Tag{Number: tagCoMID, Content: encode(t, object{1: object{0: "tag"}, 4: object{0: []any{[]any{env, measurements}}}})}
}

var (
	acme = object{0: object{1: "ACME", 2: "RoadRunner"}}
	end  = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
)

func period(from, to any) object {
	out := object{}
	if from != nil {
		out[0] = cbor.Tag{Number: 1, Content: from}
	}
	if to != nil {
		out[1] = cbor.Tag{Number: 1, Content: to}
	}
	return out
}

func unsigned(t testing.TB, more object, tags ...any) []byte {
	t.Helper()
	m := object{0: "id", 1: tags}
	for k, v := range more {
		m[k] = v
	}
	return encode(t, cbor.Tag{Number: tagUnsigned, Content: m})
}

// sign wraps a manifest; change bends the headers before.
func sign(t testing.TB, key crypto.Signer, payload []byte, change func(*cose.Sign1Message)) []byte {
	t.Helper()
	alg, err := algorithm(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(alg, key)
	if err != nil {
		t.Fatal(err)
	}
	m := cose.NewSign1Message()
	m.Headers.Protected.SetAlgorithm(alg)
	m.Headers.Protected[cose.HeaderLabelContentType] = contentTypes[0]
	m.Payload = payload
	if change != nil {
		change(m)
	}
	if err := m.Sign(rand.Reader, nil, s); err != nil {
		t.Fatal(err)
	}
	b, err := m.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"Ed25519": ed, "P-256": p256, "P-384": p384}
}

var digests = object{0: "fw", 1: object{2: []any{[]any{7, []byte{1, 2, 3}}, []any{"sha-256", []byte{4}}}}}

func TestSigned(t *testing.T) {
	all := keys(t)
	body := unsigned(t, object{4: period(1_000_000_000, end.Unix())}, comid(t, acme, digests))
	for name, k := range all {
		m, err := Parse(sign(t, k, body, func(m *cose.Sign1Message) {
			m.Headers.Protected[headerMeta] = encode(t, object{0: object{0: "signer"}, 1: period(nil, end.Unix()-60)})
		}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !m.Signed || !m.Expires.Equal(end.Add(-time.Minute)) || m.NotBefore.Unix() != 1_000_000_000 {
			t.Errorf("%s: %+v", name, m)
		}
		if !reflect.DeepEqual(m.Bundle().Values, map[string]any{"ACME/RoadRunner/fw/digests": []any{"010203", "04"}}) {
			t.Errorf("%s: %v", name, m.Values)
		}
		for other, k := range all {
			if err := m.Verify(k.Public()); (err == nil) != (other == name) {
				t.Errorf("signed by %s, checked with %s: %v", name, other, err)
			}
		}
		stranger := keys(t)[name]
		if m.Verify(stranger.Public()) == nil {
			t.Errorf("%s: another key verifies", name)
		}
	}
	b := sign(t, all["P-256"], body, nil)
	for i := range b { // every bit that is signed counts
		bent := append([]byte(nil), b...)
		bent[i] ^= 1
		if m, err := Parse(bent); err == nil && m.Verify(all["P-256"].Public()) == nil {
			t.Fatalf("byte %d does not count", i)
		}
	}
	for name, doc := range map[string][]byte{
		"without an end": sign(t, all["P-256"], unsigned(t, nil, comid(t, acme, digests)), nil),
		"content type":   sign(t, all["P-256"], body, func(m *cose.Sign1Message) { m.Headers.Protected[cose.HeaderLabelContentType] = "application/cwt" }),
		"no content type": sign(t, all["P-256"], body, func(m *cose.Sign1Message) {
			delete(m.Headers.Protected, cose.HeaderLabelContentType)
			m.Headers.Unprotected[cose.HeaderLabelContentType] = contentTypes[0]
		}),
		"critical": sign(t, all["P-256"], body, func(m *cose.Sign1Message) {
			m.Headers.Protected[cose.HeaderLabelCritical] = []any{int64(3)}
		}),
		"meta is no text": sign(t, all["P-256"], body, func(m *cose.Sign1Message) { m.Headers.Protected[headerMeta] = int64(1) }),
		"another tag":     sign(t, all["P-256"], encode(t, cbor.Tag{Number: 61, Content: object{}}), nil),
	} {
		if _, err := Parse(doc); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if m, err := Parse(body); err != nil || m.Verify(all["P-256"].Public()) == nil {
		t.Errorf("an unsigned one verifies: %v", err)
	}
}

func TestNames(t *testing.T) {
	raw := func(b ...byte) cbor.Tag { return cbor.Tag{Number: tagBytes, Content: b} }
	m, err := Parse(unsigned(t, nil,
		comid(t, acme, digests, object{0: 7, 1: object{4: raw(9)}}, object{1: object{2: []any{[]any{1, []byte{5}}}, 8: "S1", 11: "boot"}}),
		comid(t, acme, digests), comid(t, object{}, object{1: object{2: []any{[]any{1, []byte{6}}}}}),
		cbor.Tag{Number: 505, Content: []byte{0xa0}},
	))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"ACME/RoadRunner/fw/digests": []any{"010203", "04", "010203", "04"}, "ACME/RoadRunner/claim7/raw_bytes": "09",
		"ACME/RoadRunner/boot/S1/digests": []any{"05"}, "digests": []any{"06"},
	}
	if !reflect.DeepEqual(m.Values, want) {
		t.Errorf("%v", m.Values)
	}
	for name, doc := range map[string][]byte{
		"instance":           unsigned(t, nil, comid(t, object{0: object{1: "A"}, 1: cbor.Tag{Number: 550, Content: []byte{1}}}, digests)),
		"group":              unsigned(t, nil, comid(t, object{2: cbor.Tag{Number: 37, Content: make([]byte, 16)}}, digests)),
		"mask":               unsigned(t, nil, comid(t, acme, object{1: object{4: raw(1), 5: []byte{1}}})),
		"raw of a kind":      unsigned(t, nil, comid(t, acme, object{1: object{4: []byte{1}}})),
		"two raw":            unsigned(t, nil, comid(t, acme, object{1: object{4: raw(1)}}, object{1: object{4: raw(2)}})),
		"key":                unsigned(t, nil, comid(t, acme, object{0: cbor.Tag{Number: 111, Content: []byte{1}}, 1: object{4: raw(1)}})),
		"no digest":          unsigned(t, nil, comid(t, acme, object{1: object{2: []any{[]any{1, []byte{}}}}})),
		"nothing":            unsigned(t, nil, comid(t, acme, object{1: object{1: 3}})),
		"no tags":            unsigned(t, nil),
		"no id":              encode(t, cbor.Tag{Number: tagUnsigned, Content: object{1: []any{comid(t, acme, digests)}}}),
		"empty validity":     unsigned(t, object{4: object{}}, comid(t, acme, digests)),
		"ends first":         unsigned(t, object{4: period(20, 10)}, comid(t, acme, digests)),
		"time without a tag": unsigned(t, object{4: object{1: 10}}, comid(t, acme, digests)),
		"comid no bytes":     unsigned(t, nil, cbor.Tag{Number: tagCoMID, Content: object{}}),
		"key twice":          append([]byte{0xd9, 0x01, 0xf5, 0xa2, 0x00, 0x61, 'a', 0x00}, 0x61, 'b'),
		"no tag":             {0xa0},
		"nothing at all":     nil,
		"something after":    append(unsigned(t, nil, comid(t, acme, digests)), 0),
		"deep":               append([]byte{0xd9, 0x01, 0xf5}, []byte(strings.Repeat("\x81", 100))...),
	} {
		if m, err := Parse(doc); err == nil {
			t.Errorf("%s: taken: %v", name, m.Values)
		}
	}
}

// FuzzParse: what is taken is a bundle, and a signed one has an end.
func FuzzParse(f *testing.F) {
	b, err := hex.DecodeString(outside)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	body := unsigned(f, object{4: period(nil, end.Unix())}, comid(f, acme, digests))
	f.Add(body)
	all := keys(f)
	for _, k := range all {
		f.Add(sign(f, k, body, nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		if m.Signed && m.Expires.IsZero() {
			t.Error("signed, without an end")
		}
		for _, k := range all {
			_ = m.Verify(k.Public())
		}
		doc, err := m.Bundle().Encode()
		if err == nil {
			_, err = refvalue.Parse(doc)
		}
		if err != nil {
			t.Errorf("taken, and no bundle: %v", err)
		}
	})
}
