package dice

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
)

// der makes the extension in either form.
func der(t testing.TB, v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type tcb struct {
	Vendor string `asn1:"tag:0,utf8"`
	FWIDs  []fwid `asn1:"tag:6"`
}

type composite struct {
	Version   int
	DeviceKey struct{ A int }
	FWID      fwid
}

func cert(values ...[]byte) *x509.Certificate {
	c := new(x509.Certificate)
	for _, v := range values {
		c.Extensions = append(c.Extensions, pkix.Extension{Id: oidTCBInfo, Value: v})
	}
	return c
}

func TestOf(t *testing.T) {
	a, b := bytes.Repeat([]byte{1}, 48), bytes.Repeat([]byte{2}, 48)
	id, err := Of(cert(der(t, tcb{"v", []fwid{{oidSHA384, a}, {oidSHA384, b}}})))
	if err != nil || len(id.FWIDs) != 2 || !bytes.Equal(id.FWIDs[0], a) || id.DeviceKey != nil {
		t.Errorf("%+v, %v", id, err)
	}
	id, err = Of(cert(der(t, composite{Version: 1, FWID: fwid{oidSHA384, b}})))
	if err != nil || len(id.FWIDs) != 1 || !bytes.Equal(id.FWIDs[0], b) || !bytes.Equal(id.DeviceKey, []byte{0x30, 3, 2, 1, 0}) {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := Of(cert()); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	good := der(t, tcb{"v", []fwid{{oidSHA384, a}}})
	sha256 := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	for name, c := range map[string]*x509.Certificate{
		"twice": cert(good, good), "empty": cert([]byte{}), "null": cert([]byte{5, 0}), "trailing": cert(append(bytes.Clone(good), 0)), "no firmware": cert([]byte{0x30, 0}),
		"cut": cert(good[:len(good)-1]), "another algorithm": cert(der(t, tcb{"v", []fwid{{sha256, a}}})), "short digest": cert(der(t, tcb{"v", []fwid{{oidSHA384, a[1:]}}})),
		"too many": cert(der(t, tcb{"v", make([]fwid, 0, 17)})), "version 2": cert(der(t, composite{Version: 2, FWID: fwid{oidSHA384, a}})),
		"out of order": cert([]byte{0x30, 6, 0x83, 1, 1, 0x82, 1, 1}),
	} {
		if _, err := Of(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzOf(f *testing.F) {
	a := bytes.Repeat([]byte{1}, 48)
	f.Add(der(f, tcb{"v", []fwid{{oidSHA384, a}, {oidSHA384, a}}}))
	f.Add(der(f, composite{Version: 1, FWID: fwid{oidSHA384, a}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := Of(cert(b)); err == nil && (len(id.FWIDs) == 0 || len(id.FWIDs) > maxFWIDs || len(id.FWIDs[0]) != 48) {
			t.Errorf("%+v", id)
		}
	})
}
