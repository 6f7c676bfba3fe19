package kbs

import (
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// A binding's place in the canonical text, which others must be able to make.
func TestBoundRuntimeData(t *testing.T) {
	raw := make([]byte, 32)
	raw[31] = 1
	priv, err := ecdh.P256().NewPrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewTEEKey(priv.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := k.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	v := KeyBinding([]byte("key"))
	b := &Binding{TLSExporter: v, IdentityKey: v, VerifierKey: v}
	got, err := BoundRuntimeDataHash(HashSHA256, "n", k, "", b)
	if err != nil {
		t.Fatal(err)
	}
	canon, err := Canonicalize(jwk)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256([]byte(`{"additional-evidence":"","coffer-binding":{"identity-key":"` + v + `","tls-exporter":"` + v + `","verifier-key":"` + v + `"},"nonce":"n","tee-pubkey":` + string(canon) + `}`))
	if hex.EncodeToString(got) != hex.EncodeToString(want[:]) {
		t.Errorf("%x, want %x", got, want)
	}
	plain, err := RuntimeDataHash(HashSHA256, "n", k, "")
	if err != nil {
		t.Fatal(err)
	}
	none, err := BoundRuntimeDataHash(HashSHA256, "n", k, "", nil)
	if err != nil || !slices.Equal(plain, none) || slices.Equal(plain, got) {
		t.Errorf("without a binding: %x %x %v", plain, none, err)
	}
}

func TestBindingForms(t *testing.T) {
	good := KeyBinding(nil)
	for _, c := range []struct {
		b  *Binding
		ok bool
	}{
		{nil, true}, {&Binding{}, false}, {&Binding{TLSExporter: good}, true}, {&Binding{IdentityKey: good}, true}, {&Binding{IdentityKey: good + "="}, false},
		{&Binding{IdentityKey: good[:42]}, false}, {&Binding{TLSExporter: good, IdentityKey: "x"}, false}, {&Binding{VerifierKey: good}, true}, {&Binding{TLSExporter: good, VerifierKey: "x"}, false}, {&Binding{IdentityKey: strings.Repeat("/", 43)}, false},
	} {
		if got := c.b.Check() == nil; got != c.ok {
			t.Errorf("%+v: %t", c.b, got)
		}
	}
	if got := Confirmed([]string{"identity-key", "future", "verifier-key", "tls-exporter", "tls-exporter"}, true, true); !slices.Equal(got, []string{BindTLSExporter, BindIdentityKey, BindVerifierKey}) {
		t.Errorf("confirmed %q", got)
	}
	if got := Confirmed([]string{"identity-key", "tls-exporter", "verifier-key"}, false, false); !slices.Equal(got, []string{BindIdentityKey}) {
		t.Errorf("confirmed %q", got)
	}
	if got := Confirmed([]string{"tls-exporter", "verifier-key"}, true, false); !slices.Equal(got, []string{BindTLSExporter}) {
		t.Errorf("confirmed %q", got)
	}
	if got := Confirmed(make([]string, 9), true, true); got != nil {
		t.Errorf("confirmed %q", got)
	}
	shown := []*x509.Certificate{{RawSubjectPublicKeyInfo: []byte("key")}}
	if got, err := VerifierBinding(&tls.ConnectionState{PeerCertificates: shown}); err != nil || got != KeyBinding([]byte("key")) {
		t.Errorf("%q, %v", got, err)
	}
	for _, s := range []*tls.ConnectionState{nil, {}, {PeerCertificates: shown, DidResume: true}} {
		if got, err := VerifierBinding(s); err == nil {
			t.Errorf("%+v: %q", s, got)
		}
	}
	if _, err := ChannelBinding(nil); err == nil {
		t.Error("no connection has a binding")
	}
	if _, err := ChannelBinding(&tls.ConnectionState{Version: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 has a binding")
	}
}
