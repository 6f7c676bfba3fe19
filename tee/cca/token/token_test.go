package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/sim"
	"github.com/cofferproject/coffer/tee/cca/token"
)

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parts are the two signed tokens of a good collection.
func parts(t *testing.T) (platform, realm []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, _, err := sim.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m, err := sim.New(key, &sim.Inputs{Kernel: []byte("kernel"), MemoryMiB: 256, VCPUs: 1, RPV: [64]byte{5}}, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Token([64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	var tag cbor.RawTag
	var c map[uint64][]byte
	if err := cbor.Unmarshal(b, &tag); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Unmarshal(tag.Content, &c); err != nil {
		t.Fatal(err)
	}
	return c[44234], c[44241], key
}

// Frames that readers might read in two ways, or that are no collection.
func TestRefusedFrames(t *testing.T) {
	platform, realm, key := parts(t)
	good := marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: platform, 44241: realm}})
	if _, err := token.Parse(good); err != nil {
		t.Fatal(err)
	}
	var inner cbor.RawTag
	if err := cbor.Unmarshal(platform, &inner); err != nil {
		t.Fatal(err)
	}
	var sign1 []any
	if err := cbor.Unmarshal(inner.Content, &sign1); err != nil {
		t.Fatal(err)
	}
	with := func(p, r []byte) []byte {
		return marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: p, 44241: r}})
	}
	message := func(tag uint64, parts ...any) []byte { return marshal(t, cbor.Tag{Number: tag, Content: parts}) }
	header := func(h any) []byte { return with(message(18, marshal(t, h), map[int]int{}, sign1[2], sign1[3]), realm) }
	byHand := func(s string, parts ...[]byte) []byte { // "P" and "R" stand for the tokens
		s = strings.ReplaceAll(s, " ", "")
		for i, c := range []string{"P", "R"} {
			s = strings.ReplaceAll(s, c, hex.EncodeToString(marshal(t, parts[i])))
		}
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := byHand("d9018f a2 19acca P 19acd1 R", platform, realm); !bytes.Equal(b, good) {
		t.Fatal("the test's own encoding is wrong")
	}
	deep := bytes.Repeat([]byte{0x81}, 100)
	for name, b := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "padded": append(bytes.Clone(good), 0),
		"other tag": marshal(t, cbor.Tag{Number: 400, Content: map[uint64][]byte{44234: platform, 44241: realm}}), "no tag": good[3:],
		"no realm": marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: platform}}), "empty realm": with(platform, []byte{}),
		"unknown entry":     marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: platform, 44241: realm, 1: {}}}),
		"platform twice":    byHand("d9018f a3 19acca P 19acca P 19acd1 R", platform, realm),
		"indefinite map":    byHand("d9018f bf 19acca P 19acd1 R ff", platform, realm),
		"text label":        byHand("d9018f a2 653434323334 P 19acd1 R", platform, realm),
		"deep":              append([]byte{0xd9, 0x01, 0x8f}, deep...),
		"large map":         {0xd9, 0x01, 0x8f, 0xba, 0xff, 0xff, 0xff, 0xff},
		"large string":      {0xd9, 0x01, 0x8f, 0xa1, 0x19, 0xac, 0xca, 0x5a, 0xff, 0xff, 0xff, 0xff},
		"padded message":    with(append(bytes.Clone(platform), 0), realm),
		"COSE_Sign":         with(message(98, sign1...), realm),
		"untagged message":  with(marshal(t, sign1), realm),
		"three parts":       with(message(18, sign1[:3]...), realm),
		"detached payload":  with(message(18, sign1[0], sign1[1], nil, sign1[3]), realm),
		"no algorithm":      header(map[int]int{}),
		"critical header":   header(map[int]any{1: -35, 2: []int{1}}),
		"unknown header":    header(map[int]any{1: -35, 99: 1}),
		"algorithm as text": header(map[int]any{1: "ES384"}),
	} {
		if _, err := token.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// ES256 is read, so that the denial can name it, and never verifies.
	tok, err := token.Parse(header(map[int]int{1: -7}))
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.VerifyPlatform(&key.PublicKey); err == nil {
		t.Error("ES256: accepted")
	}
	// Claims that nobody knows are passed over, as the published codec does.
	var claims map[int]any
	if err := cbor.Unmarshal(sign1[2].([]byte), &claims); err != nil {
		t.Fatal(err)
	}
	claims[77777] = "new"
	more, err := sim.SignClaims(key, claims)
	if err != nil {
		t.Fatal(err)
	}
	if tok, err = token.Parse(with(more, realm)); err != nil || tok.VerifyPlatform(&key.PublicKey) != nil {
		t.Errorf("an unknown claim: %v", err)
	}
	delete(claims, 2395)
	if more, err = sim.SignClaims(key, claims); err != nil {
		t.Fatal(err)
	}
	if _, err = token.Parse(with(more, realm)); err == nil {
		t.Error("no lifecycle: accepted")
	}
}

// The guest's reader refuses the frames that it cannot be sure about.
func TestPersonalizationValue(t *testing.T) {
	platform, realm, _ := parts(t)
	good := marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: platform, 44241: realm}})
	if v, err := cca.PersonalizationValue(good); err != nil || !bytes.Equal(v, append([]byte{5}, make([]byte, 63)...)) {
		t.Fatalf("%x, %v", v, err)
	}
	for i := range good {
		if i > 0 && i < 12 || i > len(good)-3 {
			if _, err := cca.PersonalizationValue(good[:i]); err == nil {
				t.Errorf("cut to %d: accepted", i)
			}
		}
	}
	twice := marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44241: realm}})
	twice[3]++ // a map of two
	twice = append(twice, twice[4:]...)
	for name, b := range map[string][]byte{"padded": append(bytes.Clone(good), 0), "realm twice": twice, "no realm": marshal(t, cbor.Tag{Number: 399, Content: map[uint64][]byte{44234: platform}}), "long": make([]byte, cca.MaxToken+1)} {
		if _, err := cca.PersonalizationValue(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
