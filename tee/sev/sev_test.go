package sev

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/test/fakesev"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOutsideVectors: what another implementation (virtee/sev, its unit tests) makes of
// the same keys; the measurement there is one of a real secure processor.
func TestOutsideVectors(t *testing.T) {
	zero := make([]byte, KeySize)
	if got := hex.EncodeToString(derive(zero, "sev-master-secret", zero)); got != "ab4d269fcc62bedb4511d56c386ce706" {
		t.Errorf("KDF: %s", got)
	}
	b := new(Keys).wrap(zero, [KeySize]byte{}, [KeySize]byte{})
	if len(b) != SessionSize {
		t.Fatalf("%d bytes", len(b))
	}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"nonce":        {b[:16], strings.Repeat("00", 16)},
		"wrapped keys": {b[16:48], "2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4"},
		"iv":           {b[48:64], strings.Repeat("00", 16)},
		"wrap mac":     {b[64:96], "3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d"},
		"policy mac":   {b[96:], "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af"},
	} {
		if hex.EncodeToString(c.got) != c.want {
			t.Errorf("%s: %x, want %s", name, c.got, c.want)
		}
	}
	k := &Keys{TIK: [KeySize]byte(unhex(t, "66320db73158a35a255d051758e95ed4"))}
	m := &launch.SEVMeasurement{
		APIMinor: 0x12, Build: 0x0f,
		Measure: unhex(t, "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea"), Nonce: unhex(t, "4fbe0bedbad6c86ae8f68971d103e554"),
	}
	digest := unhex(t, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855") // of nothing
	if err := k.verify(m, &Expected{Digests: [][]byte{digest}}); err != nil {
		t.Error(err)
	}
	m.Build++
	if err := k.verify(m, &Expected{Digests: [][]byte{digest}}); !errors.Is(err, ErrMeasurement) {
		t.Errorf("another build: %v", err)
	}
}

const diskGUID = "736869e5-84f0-4973-92ec-06879ce3da0b"

func TestTable(t *testing.T) {
	got, err := Table([]Entry{{diskGUID, []byte("key")}, {strings.ToUpper("cd2a1b3c-0001-0002-8003-0405060708ff"), []byte("another one")}})
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile(filepath.Join("testdata", "table.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(strings.Fields(string(golden)), ""); hex.EncodeToString(got) != want {
		t.Errorf("%x\nwant %s", got, want)
	}
	for want, e := range map[string][]Entry{
		"no entry":       nil,
		"no GUID":        {{"736869e584f0497392ec06879ce3da0b", []byte("x")}},
		"given twice":    {{diskGUID, []byte("x")}, {strings.ToUpper(diskGUID), []byte("y")}},
		"table's own":    {{tableGUID, []byte("x")}},
		"0 bytes":        {{diskGUID, nil}},
		"at most 3072":   {{diskGUID, make([]byte, maxTable)}},
		"between 1 and ": {{diskGUID, make([]byte, maxTable+1)}},
	} {
		if b, err := Table(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%x, %v, want %q", b, err, want)
		}
	}
}

func processor(t *testing.T) (*fakesev.Processor, *Platform) {
	t.Helper()
	p, err := fakesev.New()
	if err != nil {
		t.Fatal(err)
	}
	v, err := VerifyPlatform(p.Chain, p.Vendors)
	if err != nil {
		t.Fatal(err)
	}
	return p, v
}

// TestSecretReachesTheLaunch: the processor gets what the owner has sent, and every
// change on the way is noticed by one of the two.
func TestSecretReachesTheLaunch(t *testing.T) {
	p, platform := processor(t)
	const policy = 0x3f
	keys, s, err := NewSession(platform, policy)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(s.DHCert, s.Blob, policy&^1); !errors.Is(err, fakesev.ErrSession) {
		t.Errorf("the host starts it under another policy: %v", err)
	}
	if err := p.Start(s.DHCert, s.Blob, policy); err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	want := Expected{Digests: [][]byte{digest}}
	measure := func(digest []byte) *launch.SEVMeasurement {
		t.Helper()
		m, nonce, err := p.Measure(digest)
		if err != nil {
			t.Fatal(err)
		}
		return &launch.SEVMeasurement{APIMajor: p.Major, APIMinor: p.Minor, Build: p.Build, Policy: policy, Measure: m, Nonce: nonce}
	}
	table, err := Table([]Entry{{diskGUID, []byte("correct horse")}})
	if err != nil {
		t.Fatal(err)
	}
	first := measure(digest)
	packet, err := keys.Packet(first, &Expected{Digests: [][]byte{bytes.Repeat([]byte{8}, 32), digest}, Floor: Firmware{0, 24, 15}}, table)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(packet.Secret, []byte("horse")) {
		t.Error("the secret is readable on the way")
	}
	if got, err := p.Inject(packet.Header, packet.Secret); err != nil || !bytes.Equal(got, table) {
		t.Errorf("%q, %v", got, err)
	}
	for i := range packet.Header {
		bent := bytes.Clone(packet.Header)
		bent[i] ^= 1
		if _, err := p.Inject(bent, packet.Secret); !errors.Is(err, fakesev.ErrPacket) {
			t.Errorf("header byte %d: %v", i, err)
		}
	}
	measure(digest)
	if _, err := p.Inject(packet.Header, packet.Secret); !errors.Is(err, fakesev.ErrPacket) {
		t.Errorf("another launch takes it: %v", err)
	}
	if _, err := keys.Packet(measure(bytes.Repeat([]byte{9}, 32)), &want, table); !errors.Is(err, ErrMeasurement) {
		t.Errorf("another digest: %v", err)
	}
	other, _, err := NewSession(platform, policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Packet(first, &want, table); !errors.Is(err, ErrMeasurement) {
		t.Errorf("another session: %v", err)
	}
	for says, m := range map[string]*launch.SEVMeasurement{
		"older than 0.17": {APIMinor: 16, Measure: first.Measure, Nonce: first.Nonce}, "not 32 and 16": {APIMinor: 24, Measure: first.Measure}, "measure and nonce": nil,
	} {
		if _, err := keys.Packet(m, &want, table); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if _, err := keys.Packet(first, &Expected{}, table); err == nil || errors.Is(err, ErrMeasurement) {
		t.Errorf("no digest is expected: %v", err)
	}
	for _, n := range []int{0, 15, maxTable + 16} {
		if _, err := keys.Packet(first, &want, make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes", n)
		}
	}
	for _, f := range []Firmware{{0, 24, 16}, {0, 25, 0}, {1, 0, 0}} {
		if _, err := keys.Packet(first, &Expected{Digests: want.Digests, Floor: f}, table); err == nil || !strings.Contains(err.Error(), "0.24.15 is older than") {
			t.Errorf("firmware older than %+v: %v", f, err)
		}
	}
	for _, open := range []uint32{0x3e, 0x3d, 0} {
		if _, _, err := NewSession(platform, open); err == nil || !strings.Contains(err.Error(), "set bits 0, 1 and 3") {
			t.Errorf("policy %#x: %v", open, err)
		}
	}
	if _, _, err := NewSession(&Platform{}, policy); err == nil {
		t.Error("a platform that nobody has verified")
	}
}

// TestChainIsRefused bends every part of the chain that says something, and swaps
// what could be swapped.
func TestChainIsRefused(t *testing.T) {
	p, _ := processor(t)
	other, _ := processor(t)
	at := func(cert, offset int) int { return cert*CertificateSize + offset }
	for name, i := range map[string]int{
		"PDH: version": at(0, 0), "PDH: the key in its place is for usage": at(0, atUsage), "PDH: algorithm": at(0, atAlgorithm), "PDH: curve": at(0, atKey), "PDH: public key": at(0, atKey+4),
		"PDH: signature by PEK: wrong": at(0, atSignature+8), "PDH: no signature by PEK": at(0, atSignature), "PDH: a coordinate is longer": at(0, atKey+4+60),
		"PEK: signature by OCA: wrong": at(1, 4), "PEK: signature by CEK: wrong": at(1, atSignature+sizeSig+8), "PEK: signature by CEK: algorithm": at(1, atSignature+sizeSig+5),
		"OCA: signature by OCA: wrong": at(2, 0x300), "CEK: signature by ASK: wrong": at(3, 0x300), "CEK: no signature by ASK": at(3, atSignature),
	} {
		bent := bytes.Clone(p.Chain)
		bent[i] ^= 0x40
		if _, err := VerifyPlatform(bent, p.Vendors); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	vendorSize := len(p.Vendors) / 2
	for want, i := range map[string]int{
		"ASK: version": 0, "ASK: its signer is not this ARK": 0x14, "ASK: the key in its place is for usage": 0x24, "ASK: a key of": 0x3d, "ASK: its exponent": 0x40 + 100, "ASK: its modulus": 0x40 + 256 + 255,
		"ASK: signature by ARK: wrong": vendorSize - 1, "ARK: signature by ARK: wrong": vendorSize + 0x30,
	} {
		bent := bytes.Clone(p.Vendors)
		bent[i] ^= 0x80
		if _, err := VerifyPlatform(p.Chain, bent); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	swap := func(cert int) []byte {
		b := bytes.Clone(p.Chain)
		copy(b[cert*CertificateSize:][:CertificateSize], other.Chain[cert*CertificateSize:])
		return b
	}
	for want, args := range map[string][2][]byte{
		"CEK: signature by ASK: wrong":     {p.Chain, other.Vendors},
		"PDH: signature by PEK: wrong":     {swap(0), p.Vendors},
		"PEK: signature by OCA: wrong":     {swap(2), p.Vendors},
		"CEK: signature by ASK":            {swap(3), p.Vendors},
		"certificates of the platform: 1":  {p.Chain[:1], p.Vendors},
		"certificates of AMD: ASK":         {p.Chain, nil},
		"certificates of AMD: ARK: 0":      {p.Chain, p.Vendors[:vendorSize]},
		"1 bytes after the ARK":            {p.Chain, append(bytes.Clone(p.Vendors), 0)},
		"certificates of AMD: more than":   {p.Chain, make([]byte, maxVendors+1)},
		"ASK: the key in its place is for": {p.Chain, append(bytes.Clone(p.Vendors[vendorSize:]), p.Vendors[:vendorSize]...)},
	} {
		if _, err := VerifyPlatform(args[0], args[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestOwnersCertificate(t *testing.T) {
	_, platform := processor(t)
	_, s, err := NewSession(platform, 0x3b)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(s.DHCert, usagePDH)
	if err != nil || c.algorithm != algorithmECDHSHA256 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := c.by(usagePEK); err == nil || binary.LittleEndian.Uint32(s.DHCert[atSignature:]) != usageNo {
		t.Error("it is signed")
	}
}

func FuzzPlatform(f *testing.F) {
	p, err := fakesev.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Chain[:CertificateSize], p.Vendors)
	f.Add(make([]byte, CertificateSize), p.Vendors[:len(p.Vendors)/2])
	f.Fuzz(func(t *testing.T, cert, vendors []byte) {
		for _, usage := range []uint32{usagePDH, usagePEK, usageOCA, usageCEK} {
			if c, err := parseCertificate(cert, usage); err == nil {
				if c.key == nil || c.usage != usage {
					t.Errorf("%+v", c)
				}
				_ = c.signedBy(c)
			}
		}
		if ask, err := parseVendors(vendors); err == nil && (ask.usage != usageASK || ask.key.N.BitLen() < 2048) {
			t.Errorf("%+v", ask)
		}
	})
}
