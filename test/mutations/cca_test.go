package mutations

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/sim"
	"github.com/cofferproject/coffer/tee/cca/token"
	"github.com/cofferproject/coffer/tee/cca/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

// ccaWorld is a production platform of the test's own: the keys are ours, the
// format is what the published vector has.
type ccaWorld struct {
	cpak, rak *ecdsa.PrivateKey
	anchor    verifier.TrustAnchor
	refs      *verifier.References
	platform  token.Platform
	realm     token.Realm
	doc       []byte
	data      []byte
}

func ccaKey(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	k, c, err := sim.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return k, c
}

func newCCAWorld(t testing.TB) *ccaWorld {
	w := &ccaWorld{data: make([]byte, 48)}
	w.cpak, _ = ccaKey(t)
	w.rak, _ = ccaKey(t)
	var err error
	w.doc, err = initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA512, Data: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	point, err := w.rak.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sum := func(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }
	rpv, life := sha512.Sum512(w.doc), uint16(0x3001)
	w.platform = token.Platform{
		Profile: token.ProfileSSD, Challenge: sum(string(point)), ImplementationID: sum("implementation"), InstanceID: append([]byte{1}, sum("instance")...),
		Config: []byte{1, 2}, Lifecycle: &life, Hash: "sha-256", Service: "https://verifier.example",
		Components: []token.Component{{Type: "BL", Measurement: sum("BL"), SignerID: sum("signer"), Version: "1.2"}, {Type: "RMM", Measurement: sum("RMM"), SignerID: sum("signer")}},
	}
	w.realm = token.Realm{Challenge: initdata.Fit(w.data, 64), RPV: rpv[:], RIM: make([]byte, 64), Hash: "sha-512", PublicKey: point, PublicKeyHash: "sha-256"}
	for range token.REMs {
		w.realm.REM = append(w.realm.REM, make([]byte, 64))
	}
	w.anchor = verifier.TrustAnchor{Key: &w.cpak.PublicKey, ImplementationID: w.platform.ImplementationID, InstanceID: w.platform.InstanceID}
	ref := verifier.Reference{ImplementationID: w.platform.ImplementationID, Config: w.platform.Config}
	for _, c := range w.platform.Components {
		ref.Components = append(ref.Components, verifier.ReferenceComponent{Type: c.Type, Version: c.Version, Measurement: c.Measurement, SignerID: c.SignerID})
	}
	w.refs = &verifier.References{Platforms: []verifier.Reference{ref}}
	return w
}

func ccaVerifier(t testing.TB, c verifier.Config) verify.Verifier {
	if c.Kind == 0 {
		c.Kind = verify.Production
	}
	v, err := verifier.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// bend signs claims that f has changed.
func (w *ccaWorld) bend(f func(p *token.Platform, r *token.Realm)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		in.Evidence = w.evidence(t, f)
	}
}

func (w *ccaWorld) evidence(t testing.TB, f func(p *token.Platform, r *token.Realm)) json.RawMessage {
	p, r := w.platform, w.realm
	p.Components = append([]token.Component(nil), p.Components...)
	life := *p.Lifecycle
	p.Lifecycle = &life
	if f != nil {
		f(&p, &r)
	}
	b, err := sim.Sign(w.cpak, w.rak, &p, &r)
	if err != nil {
		t.Fatal(err)
	}
	return ccaEvidence(t, b)
}

func ccaEvidence(t testing.TB, tok []byte) json.RawMessage {
	b, err := json.Marshal(&cca.Evidence{Token: tok})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ccaFrame reads or replaces one part of the collection: 44234 or 44241, then the
// index in the COSE_Sign1 array.
func ccaFrame(which uint64, part int) Field {
	open := func(e json.RawMessage) (map[uint64][]byte, []any, error) {
		ev, err := cca.Parse(e)
		if err != nil {
			return nil, nil, err
		}
		var outer cbor.RawTag
		if err := cbor.Unmarshal(ev.Token, &outer); err != nil {
			return nil, nil, err
		}
		var m map[uint64][]byte
		if err := cbor.Unmarshal(outer.Content, &m); err != nil {
			return nil, nil, err
		}
		var inner cbor.RawTag
		if err := cbor.Unmarshal(m[which], &inner); err != nil {
			return nil, nil, err
		}
		var parts []any
		err = cbor.Unmarshal(inner.Content, &parts)
		return m, parts, err
	}
	return Field{
		Get: func(e json.RawMessage) ([]byte, error) {
			_, parts, err := open(e)
			if err != nil {
				return nil, err
			}
			return parts[part].([]byte), nil
		},
		Set: func(e json.RawMessage, b []byte) (json.RawMessage, error) {
			m, parts, err := open(e)
			if err != nil {
				return nil, err
			}
			parts[part] = b
			if m[which], err = cbor.Marshal(cbor.Tag{Number: 18, Content: parts}); err != nil {
				return nil, err
			}
			tok, err := cbor.Marshal(cbor.Tag{Number: 399, Content: m})
			if err != nil {
				return nil, err
			}
			return json.Marshal(&cca.Evidence{Token: tok})
		},
	}
}

func ccaField(name string, which uint64, part, every int, reasons ...denial.Reason) Field {
	f := ccaFrame(which, part)
	f.Name, f.Every, f.Reasons = name, every, reasons
	return f
}

func ccaFields(every int) []Field {
	const platform, realm = 44234, 44241
	return []Field{
		ccaField("platform protected header", platform, 0, 1, verifier.ReasonMalformed, verifier.ReasonAlgorithm, verifier.ReasonPlatformSignature),
		ccaField("platform claims", platform, 2, every, verifier.ReasonMalformed, verifier.ReasonPlatformUnknown, verifier.ReasonPlatformSignature, verify.ReasonUnproven),
		ccaField("platform signature", platform, 3, every, verifier.ReasonPlatformSignature),
		ccaField("realm protected header", realm, 0, 1, verifier.ReasonMalformed, verifier.ReasonAlgorithm, verifier.ReasonRealmSignature),
		ccaField("realm claims", realm, 2, every, verifier.ReasonMalformed, verifier.ReasonRAKUnbound, verifier.ReasonRealmSignature),
		ccaField("realm signature", realm, 3, every, verifier.ReasonRealmSignature),
		{
			Name: "token", Every: every, Reasons: []denial.Reason{
				verifier.ReasonMalformed, verifier.ReasonAlgorithm, verifier.ReasonPlatformUnknown, verifier.ReasonPlatformSignature,
				verifier.ReasonRAKUnbound, verifier.ReasonRealmSignature, verify.ReasonUnproven,
			},
			Get: func(e json.RawMessage) ([]byte, error) {
				ev, err := cca.Parse(e)
				if err != nil {
					return nil, err
				}
				return ev.Token, nil
			},
			Set: func(_ json.RawMessage, b []byte) (json.RawMessage, error) {
				return json.Marshal(&cca.Evidence{Token: b})
			},
		},
	}
}

func TestCCA(t *testing.T) {
	w := newCCAWorld(t)
	good := verifier.Config{TrustAnchors: []verifier.TrustAnchor{w.anchor}, References: w.refs}
	v := ccaVerifier(t, good)
	_, root := ccaKey(t)
	otherCPAK, _ := ccaKey(t)
	otherImpl := w.anchor
	otherImpl.ImplementationID = make([]byte, 32)
	otherKey := w.anchor
	otherKey.Key = &otherCPAK.PublicKey
	b := w.evidence(t, nil)
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, ReportData: w.data, Initdata: w.doc, Now: time.Now()}
		},
		Fields: ccaFields(3),
		Cases: []Case{
			{Name: "wrong nonce", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 47); in.ReportData[0] = 1 }},
			{Name: "realm challenge", Reason: verify.ReasonReportData, Mutate: w.bend(func(_ *token.Platform, r *token.Realm) { r.Challenge = make([]byte, 64); r.Challenge[63] = 1 })},
			{Name: "wrong initdata", Reason: verify.ReasonInitdataMismatch, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = append([]byte("# x\n"), in.Initdata...) }},
			{Name: "initdata missing", Reason: verify.ReasonInitdataMissing, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }},
			{Name: "initdata unexpected", Reason: verify.ReasonInitdataUnexpected, Mutate: w.bend(func(_ *token.Platform, r *token.Realm) { r.RPV = make([]byte, 64) })},
			{Name: "initdata of another algorithm", Reason: verify.ReasonInitdataMalformed, Mutate: func(t testing.TB, in *verify.Input) {
				doc, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{}})
				if err != nil {
					t.Fatal(err)
				}
				h := sha512.Sum512(doc)
				in.Initdata, in.Evidence = doc, w.evidence(t, func(_ *token.Platform, r *token.Realm) { r.RPV = h[:] })
			}},
			{Name: "initdata by its shorter digest", Reason: verify.ReasonInitdataMismatch, Mutate: w.bend(func(_ *token.Platform, r *token.Realm) {
				h := sha256.Sum256(w.doc)
				r.RPV = initdata.Fit(h[:], 64)
			})},
			{Name: "debug platform before provisioning", Reason: verifier.ReasonLifecycle, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { *p.Lifecycle = 0x2000 })},
			{Name: "unknown lifecycle", Reason: verifier.ReasonLifecycle, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { *p.Lifecycle = 0x0000 })},
			{Name: "lifecycle out of the table", Reason: verifier.ReasonLifecycle, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { *p.Lifecycle = 0x3100 })},
			{Name: "decommissioned", Reason: verifier.ReasonLifecycle, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { *p.Lifecycle = 0x6000 })},
			{Name: "old firmware", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components[0].Version = "1.1" })},
			{Name: "other monitor", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components[1].Measurement = make([]byte, 32) })},
			{Name: "other signer", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components[1].SignerID = make([]byte, 32) })},
			{Name: "component left out", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components = p.Components[:1] })},
			{Name: "component twice", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components = append(p.Components, p.Components[0]) })},
			{Name: "other configuration", Reason: verifier.ReasonSoftware, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Config = []byte{1, 3} })},
			{Name: "other instance", Reason: verifier.ReasonPlatformUnknown, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.InstanceID = append([]byte{1}, make([]byte, 32)...) })},
			{Name: "other implementation", Reason: verifier.ReasonImplementation, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.ImplementationID = make([]byte, 32) })},
			{Name: "unbound realm key", Reason: verifier.ReasonRAKUnbound, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Challenge = make([]byte, 32) })},
			{Name: "realm key bound by another hash", Reason: verifier.ReasonRAKUnbound, Mutate: w.bend(func(_ *token.Platform, r *token.Realm) { r.PublicKeyHash = "sha-512" })},
			{Name: "realm token signed by another key", Reason: verifier.ReasonRealmSignature, Mutate: func(t testing.TB, in *verify.Input) {
				p, err := sim.SignClaims(w.cpak, &w.platform)
				if err != nil {
					t.Fatal(err)
				}
				r, err := sim.SignClaims(otherCPAK, &w.realm)
				if err != nil {
					t.Fatal(err)
				}
				tok, err := sim.Collect(p, r)
				if err != nil {
					t.Fatal(err)
				}
				in.Evidence = ccaEvidence(t, tok)
			}},
			{Name: "swapped tokens", Reason: verifier.ReasonMalformed, Mutate: func(t testing.TB, in *verify.Input) {
				p, err := sim.SignClaims(w.cpak, &w.platform)
				if err != nil {
					t.Fatal(err)
				}
				tok, err := sim.Collect(p, p)
				if err != nil {
					t.Fatal(err)
				}
				in.Evidence = ccaEvidence(t, tok)
			}},
			{Name: "unknown profile", Reason: verifier.ReasonMalformed, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Profile = "http://arm.com/CCA-SSD/2.0.0" })},
			{Name: "profile without a vector", Reason: verify.ReasonUnproven, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Profile = token.Profile2023 })},
			{Name: "component with a short digest", Reason: verifier.ReasonMalformed, Mutate: w.bend(func(p *token.Platform, _ *token.Realm) { p.Components[0].Measurement = make([]byte, 20) })},
			{Name: "three extensible measurements", Reason: verifier.ReasonMalformed, Mutate: w.bend(func(_ *token.Platform, r *token.Realm) { r.REM = r.REM[:3] })},
			{Name: "trust anchor revoked", Reason: verifier.ReasonPlatformUnknown, Verifier: ccaVerifier(t, verifier.Config{References: w.refs})},
			{Name: "trust anchor of another key", Reason: verifier.ReasonPlatformSignature, Verifier: ccaVerifier(t, verifier.Config{References: w.refs, TrustAnchors: []verifier.TrustAnchor{otherKey}})},
			{Name: "trust anchor of another implementation", Reason: verifier.ReasonImplementation, Verifier: ccaVerifier(t, verifier.Config{References: w.refs, TrustAnchors: []verifier.TrustAnchor{otherImpl}})},
			{Name: "no reference values", Reason: verifier.ReasonNoReference, Verifier: ccaVerifier(t, verifier.Config{TrustAnchors: []verifier.TrustAnchor{w.anchor}})},
			{Name: "real evidence in a simulated namespace", Reason: verify.ReasonNotSimulated, Verifier: ccaVerifier(t, verifier.Config{Config: verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{root}}})},
			{Name: "simulation note in production", Reason: verify.ReasonSimulated, Mutate: func(t testing.TB, in *verify.Input) {
				e, err := cca.Parse(in.Evidence)
				if err != nil {
					t.Fatal(err)
				}
				e.Simulation = "simulated"
				if in.Evidence, err = json.Marshal(e); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = append([]byte(`{"extra":1,`), in.Evidence[1:]...) }},
			{Name: "token as base64", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = []byte(`{"token":"2QGP"}`) }},
		},
	})
}

// Debug platforms are accepted as what they are.
func TestCCADebug(t *testing.T) {
	w := newCCAWorld(t)
	v := ccaVerifier(t, verifier.Config{TrustAnchors: []verifier.TrustAnchor{w.anchor}, References: w.refs})
	for life, debug := range map[uint16]bool{0x3000: false, 0x30ff: false, 0x4000: false, 0x5001: true} {
		r, err := v.Verify(&verify.Input{Evidence: w.evidence(t, func(p *token.Platform, _ *token.Realm) { *p.Lifecycle = life }), ReportData: w.data, Initdata: w.doc, Now: time.Now()})
		if err != nil || r[0].Debug != debug || r[0].Initdata == nil || r[0].InitdataDoc == nil {
			t.Errorf("%#x: %+v, %v", life, r, err)
		}
	}
}

// The profile of 2023 has its realm key as a COSE_Key; it is off unless named,
// and the result says so.
func TestCCA2023(t *testing.T) {
	w := newCCAWorld(t)
	p, err := cbor.Marshal(map[int64]any{1: 2, -1: 2, -2: w.realm.PublicKey[1:49], -3: w.realm.PublicKey[49:]})
	if err != nil {
		t.Fatal(err)
	}
	in := &verify.Input{ReportData: w.data, Initdata: w.doc, Now: time.Now(), Evidence: w.evidence(t, func(pl *token.Platform, r *token.Realm) {
		h := sha256.Sum256(p)
		pl.Profile, pl.Challenge, r.Profile, r.PublicKey = token.Profile2023, h[:], token.RealmProfile2023, p
	})}
	c := verifier.Config{TrustAnchors: []verifier.TrustAnchor{w.anchor}, References: w.refs}
	if err := want(ccaVerifier(t, c), in, verify.ReasonUnproven); err != nil {
		t.Error(err)
	}
	c.AllowUnproven = []string{verifier.Unproven2023}
	r, err := ccaVerifier(t, c).Verify(in)
	if err != nil || len(r[0].Unproven) != 1 || r[0].Unproven[0] != verifier.Unproven2023 {
		t.Errorf("%+v, %v", r, err)
	}
}

// The published token, bent in every eleventh byte.
func TestCCAPublished(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "cca"), name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	anchors, err := verifier.ParseTrustAnchors(read("tastore.json"))
	if err != nil {
		t.Fatal(err)
	}
	refs, err := verifier.ParseReferences(read("rvstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	b := ccaEvidence(t, read("cca-example-token.cbor"))
	Run(t, Suite{
		Verifier: ccaVerifier(t, verifier.Config{TrustAnchors: anchors, References: refs}),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, InsecureSkipReportData: true, Now: time.Now()}
		},
		Fields: ccaFields(11),
	})
}

func TestCCASimulated(t *testing.T) {
	w := newCCAWorld(t)
	key, root := ccaKey(t)
	_, other := ccaKey(t)
	m, err := sim.New(key, &sim.Inputs{Kernel: []byte("kernel"), Initrd: []byte("initrd"), MemoryMiB: 256, VCPUs: 2, RPV: sha512.Sum512(w.doc)}, "")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := m.Token([64]byte(initdata.Fit(w.data, 64)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(&cca.Evidence{Token: tok, Simulation: m.Note()})
	if err != nil {
		t.Fatal(err)
	}
	simulated := func(roots ...*x509.Certificate) verify.Verifier {
		return ccaVerifier(t, verifier.Config{Config: verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: roots}})
	}
	Run(t, Suite{
		Verifier: simulated(other, root),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, ReportData: w.data, Initdata: w.doc, Now: time.Now()}
		},
		Cases: []Case{
			{Name: "unknown machine", Reason: verifier.ReasonPlatformUnknown, Verifier: simulated(other)},
			{Name: "no note", Reason: verify.ReasonNotSimulated, Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = ccaEvidence(t, tok) }},
			{Name: "production", Reason: verify.ReasonSimulated, Verifier: ccaVerifier(t, verifier.Config{TrustAnchors: []verifier.TrustAnchor{w.anchor}, References: w.refs})},
			{Name: "production, no note", Reason: verify.ReasonSimulated, Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = ccaEvidence(t, tok) }, Verifier: ccaVerifier(t, verifier.Config{})},
		},
	})
	r, err := simulated(root).Verify(&verify.Input{Evidence: b, ReportData: w.data, Initdata: w.doc, Now: time.Now()})
	if err != nil || !r[0].Simulated || r[0].SimulationNote != m.Note() || r[0].Initdata == nil {
		t.Errorf("%+v, %v", r, err)
	}
}
