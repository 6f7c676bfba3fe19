package mutations

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/se/attester"
	"github.com/cofferproject/coffer/tee/se/setest"
	"github.com/cofferproject/coffer/tee/se/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

func seField(name string, of func(*se.Evidence) []byte, reasons ...denial.Reason) Field {
	return Field{
		Name: name, Reasons: reasons,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := se.Parse(b)
			if err != nil {
				return nil, err
			}
			return of(e), nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := se.Parse(b)
			if err != nil {
				return nil, err
			}
			copy(of(e), v)
			return json.Marshal(e)
		},
	}
}

func seBend(f func(*se.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		e, err := se.Parse(in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		if in.Evidence, err = json.Marshal(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSE(t *testing.T) {
	raw := make([]byte, se.TagsSize)
	raw[200] = 7
	tags, err := se.ParseTags(raw)
	if err != nil {
		t.Fatal(err)
	}
	m, err := setest.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	var sealers [2]*verifier.Sealer
	for i := range sealers {
		key := make([]byte, 32)
		key[0] = byte(i)
		if sealers[i], err = verifier.NewSealer(key); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(tb testing.TB, machine *setest.Machine) (json.RawMessage, string) {
		c, err := verifier.NewChallenge(sealers[0], []*ecdh.PublicKey{machine.HostKey()}, tags)
		if err != nil {
			tb.Fatal(err)
		}
		nonce, err := json.Marshal(c)
		if err != nil {
			tb.Fatal(err)
		}
		b, err := attester.New(machine).Answer(context.Background(), string(nonce), make([]byte, 64))
		if err != nil {
			tb.Fatal(err)
		}
		return b, string(nonce)
	}
	good, nonce := answer(t, m)
	hash, err := verifier.HostKeyHash(m.HostKey())
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*verifier.Config)) verify.Verifier {
		c := verifier.Config{Config: verify.Config{Kind: verify.Production, AllowUnproven: []string{verifier.Unproven}}, Opener: sealers[0], Images: []*se.Tags{tags}, HostKeys: [][]byte{hash}}
		if f != nil {
			f(&c)
		}
		v, err := verifier.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	otherTags, err := se.ParseTags(make([]byte, se.TagsSize))
	if err != nil {
		t.Fatal(err)
	}
	otherImage, err := setest.New(otherTags.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	Run(t, Suite{
		Verifier: with(nil),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: good, Nonce: nonce, ReportData: make([]byte, 64), Now: time.Now()}
		},
		Fields: []Field{
			seField("measurement", func(e *se.Evidence) []byte { return e.Measurement }, verifier.ReasonMeasurement),
			seField("additional data", func(e *se.Evidence) []byte { return e.Additional }, verifier.ReasonMeasurement),
			seField("user data", func(e *se.Evidence) []byte { return e.UserData }, verifier.ReasonMeasurement),
			seField("guest id", func(e *se.Evidence) []byte { return e.CUID }, verifier.ReasonMeasurement),
			seField("sealed key", func(e *se.Evidence) []byte { return e.SealedKey }, verifier.ReasonOther),
			seField("sealed nonce", func(e *se.Evidence) []byte { return e.SealedNonce }, verifier.ReasonOther),
			seField("image tags", func(e *se.Evidence) []byte { return e.Tags }, verifier.ReasonOther),
		},
		Cases: []Case{
			{Name: "wrong nonce", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 64); in.ReportData[9] = 1 }},
			{Name: "initdata", Reason: verify.ReasonInitdataUnbound, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }},
			{Name: "another image", Reason: verifier.ReasonMeasurement, Mutate: func(t testing.TB, in *verify.Input) { in.Evidence, in.Nonce = answer(t, otherImage) }},
			{Name: "another image under its own tags", Reason: verifier.ReasonImage, Mutate: func(t testing.TB, in *verify.Input) {
				in.Evidence, in.Nonce = answer(t, otherImage)
				seBend(func(e *se.Evidence) { e.Tags = otherTags.Bytes() })(t, in)
				c, err := se.ParseChallenge([]byte(in.Nonce))
				if err != nil {
					t.Fatal(err)
				}
				c.Tags = otherTags.Bytes()
				b, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				in.Nonce = string(b)
			}},
			{Name: "for another session's challenge", Reason: verifier.ReasonOther, Mutate: func(t testing.TB, in *verify.Input) { in.Evidence, _ = answer(t, m) }},
			{Name: "a nonce that is no challenge", Reason: verifier.ReasonOther, Mutate: func(_ testing.TB, in *verify.Input) { in.Nonce = "x" }},
			{Name: "image that is not listed", Reason: verifier.ReasonImage, Verifier: with(func(c *verifier.Config) { c.Images = []*se.Tags{otherTags} })},
			{Name: "host key that is not listed", Reason: verifier.ReasonHostKey, Verifier: with(func(c *verifier.Config) { c.HostKeys = [][]byte{make([]byte, 32)} })},
			{Name: "challenge of another trustee", Reason: verifier.ReasonSealed, Verifier: with(func(c *verifier.Config) { c.Opener = sealers[1] })},
			{Name: "no sealer", Reason: verifier.ReasonSealed, Verifier: with(func(c *verifier.Config) { c.Opener = nil })},
			{Name: "not allowed", Reason: verify.ReasonUnproven, Verifier: with(func(c *verifier.Config) { c.AllowUnproven = nil })},
			{Name: "simulated namespace", Reason: verify.ReasonNotSimulated, Verifier: with(func(c *verifier.Config) { c.Kind = verify.InsecureSimulated })},
			{Name: "key and nonce exchanged", Reason: verifier.ReasonOther, Mutate: seBend(func(e *se.Evidence) { e.SealedKey, e.SealedNonce = e.SealedNonce, e.SealedKey })},
			{Name: "a key of the guest's own", Reason: verifier.ReasonOther, Mutate: seBend(func(e *se.Evidence) {
				key := make([]byte, 64)
				e.SealedKey, e.Measurement = sealers[1].Seal(verifier.MeasurementKey, key), se.Measure(key, e.Tags, e.CUID, e.UserData, make([]byte, 16), e.Additional)
			})},
			{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = append([]byte(`{"extra":1,`), in.Evidence[1:]...) }},
			{Name: "short user data", Reason: verifier.ReasonMalformed, Mutate: seBend(func(e *se.Evidence) { e.UserData = e.UserData[:63] })},
			{Name: "more additional data", Reason: verifier.ReasonMalformed, Mutate: seBend(func(e *se.Evidence) { e.Additional = append(e.Additional, 0) })},
		},
	})
	r, err := with(nil).Verify(&verify.Input{Evidence: good, Nonce: nonce, ReportData: make([]byte, 64), Now: time.Now()})
	if err != nil || len(r[0].Unproven) != 1 || r[0].Claims["version"] != int64(256) || r[0].Claims["tag"] != "00000000000000000700000000000000" {
		t.Errorf("%+v, %v", r, err)
	}
}

// The published RSA form opens what is encrypted to its key, and nothing else.
func TestSEPublishedSealing(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, []byte("value")) //nolint:staticcheck // the published form
	if err != nil {
		t.Fatal(err)
	}
	o := verifier.InsecureRSA{Key: key}
	if v, err := o.Open(verifier.RequestNonce, sealed); err != nil || string(v) != "value" {
		t.Errorf("%q, %v", v, err)
	}
	sealed[20] ^= 1
	if v, err := o.Open(verifier.RequestNonce, sealed); err == nil && string(v) == "value" {
		t.Error("a bent ciphertext opens")
	}
}
