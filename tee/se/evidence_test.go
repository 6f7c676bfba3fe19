package se_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/tee/se"
)

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// Cases of IBM's own library (s390-tools, crate pv, uvattest): they are of the
// calculation alone, with keys of a test, not of a machine.
func TestMeasurement(t *testing.T) {
	tags := append(append(append(fill(1, 64), fill(2, 64)...), fill(3, 64)...), fill(4, 16)...)
	for name, c := range map[string]struct {
		user, nonce, additional []byte
		want                    string
	}{
		"all":              {fill(7, 256), fill(8, 16), fill(9, 128), "88794c62cce7bcf26216deb3f48f13fea6374b6d7e35bcc5c2ce68121db6f45dfc8c1718564635494 08bf8e7d1aca11efad0a878af97dc9e21a1fc2a32f3a675"},
		"no nonce":         {fill(7, 256), nil, fill(9, 128), "fbd4f738a390edd947cd4f11af3a2f3bab2fdf8bf89bf81beb495117f4382cf42f0730c8c7d9e3ca27fb25adfceb21224f57fdb398dcf41a83c146e6a23db760"},
		"no user data":     {nil, nil, fill(9, 128), "63671fbf295036eb1023ea71f7182e7d6343dc7b2da584e824d0a7d198ab9cded756c93b39050ffb764555b01f88cb82017a6a15c7e0bafc6005f1e4f78aa124"},
		"tags and id only": {nil, nil, nil, "c5c34c93835d1ec23f5c2d778dfa20129b11b305601742cb2f38e0ed9894dcdb73fc8695ab6a8dbad0744073ddc81a5eaafa52e4a15af8deb8d761091922847f"},
	} {
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(c.want), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got := se.Measure(fill(0x41, 64), tags, fill(5, 16), c.user, c.nonce, c.additional); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
}

func TestChallengeCodec(t *testing.T) {
	good := se.Challenge{Request: []byte{1}, MeasurementSize: 64, AdditionalSize: 64, SealedKey: []byte{2}, SealedNonce: []byte{3}, Tags: make([]byte, se.TagsSize)}
	for name, bend := range map[string]func(*se.Challenge){
		"": func(*se.Challenge) {}, "request": func(c *se.Challenge) { c.Request = nil }, "measurement": func(c *se.Challenge) { c.MeasurementSize = 32 },
		"additional": func(c *se.Challenge) { c.AdditionalSize = 1 << 30 }, "tags": func(c *se.Challenge) { c.Tags = c.Tags[1:] }, "key": func(c *se.Challenge) { c.SealedKey = nil },
		"nonce": func(c *se.Challenge) { c.SealedNonce = make([]byte, 5000) }, "digest": func(c *se.Challenge) { c.RuntimeDataDigest = make([]byte, 65) },
	} {
		c := good
		bend(&c)
		b, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := se.ParseChallenge(b); (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	b, err := json.Marshal(&se.Evidence{
		Measurement: make([]byte, 64), Additional: make([]byte, 64), UserData: make([]byte, 64), CUID: make([]byte, 16),
		SealedKey: []byte{1}, SealedNonce: []byte{2}, Tags: make([]byte, se.TagsSize),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"measurement":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = se.ParseChallenge(b)
		e, err := se.Parse(b)
		if err != nil {
			return
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
		if _, err := se.ParseTags(e.Tags); err != nil {
			t.Error(err)
		}
	})
}
