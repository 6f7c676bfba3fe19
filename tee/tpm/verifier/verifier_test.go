package verifier_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/appraise"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
)

// guest is a booted machine with its software TPM.
type guest struct {
	conn *device.Conn
	att  *attester.Attester
	doc  []byte
}

type world struct {
	t  *testing.T
	ca *tpmtest.CA
	v  *verifier.Verifier
}

func newWorld(t *testing.T) *world {
	ca := tpmtest.NewCA(t, "simulated root")
	w := &world{t: t, ca: ca}
	w.v = w.verifier(verifier.Config{Simulated: verifier.InsecureSimulated, SimulatedRoots: []*x509.Certificate{ca.Root}, References: []*refvalue.Bundle{tpmtest.References()}})
	return w
}

func (w *world) verifier(c verifier.Config) *verifier.Verifier {
	w.t.Helper()
	c.CredentialKey = bytes.Repeat([]byte{7}, 32)
	v, err := verifier.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func document(t testing.TB, note string) []byte {
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{"note": note}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// boot starts a guest; mutate may change what its firmware measures.
func (w *world) boot(kind int, doc []byte, mutate func([]refvalue.Event) []refvalue.Event) *guest {
	w.t.Helper()
	g := &guest{conn: tpmtest.Start(w.t), doc: doc}
	if kind >= 0 {
		w.ca.Provision(w.t, g.conn, kind)
	}
	ev := tpmtest.Events()
	if mutate != nil {
		ev = mutate(ev)
	}
	log := tpmtest.Boot(w.t, g.conn, ev)
	digest := initdata.NoneDigest()
	if doc != nil {
		digest = sha256.Sum256(doc)
	}
	if err := device.BindInitdata(g.conn, digest); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if g.att, err = sim.New(g.conn, attester.Options{EventLogPath: log}); err != nil {
		w.t.Fatal(err)
	}
	return g
}

// session is one handshake as the trustee sees it.
type session struct {
	nonce string
	key   *kbs.TEEKey
	req   *kbs.TPMRequest
	ch    *kbs.TPMChallenge
}

func (w *world) session(g *guest) *session {
	w.t.Helper()
	n := make([]byte, 32)
	rand.Read(n)
	s := &session{nonce: base64.StdEncoding.EncodeToString(n), req: g.att.RequestExtra().TPM}
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.key, err = kbs.NewTEEKey(priv.PublicKey()); err != nil {
		w.t.Fatal(err)
	}
	if s.ch, err = w.v.Challenge(s.req, s.nonce); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (s *session) hash(t *testing.T) []byte {
	h, err := kbs.RuntimeDataHash(kbs.HashSHA384, s.nonce, s.key, "")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (w *world) evidence(g *guest, s *session) []byte {
	w.t.Helper()
	e, err := g.att.Evidence(context.Background(), s.hash(w.t), s.ch)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) input(g *guest, s *session, evidence []byte) verifier.Input {
	return verifier.Input{Evidence: evidence, Request: s.req, Nonce: s.nonce, RuntimeDataHash: s.hash(w.t), Initdata: g.doc, Now: time.Now()}
}

func wantDenial(t *testing.T, err error, reason denial.Reason) *denial.Denial {
	t.Helper()
	var d *denial.Denial
	if !errors.As(err, &d) || d.Reason != reason {
		t.Fatalf("got %v, want a denial %s", err, reason)
	}
	return d
}

func TestGenuineGuest(t *testing.T) {
	w := newWorld(t)
	for kind, k := range tpm.EKKinds() {
		t.Run(k.Name, func(t *testing.T) {
			w.t = t
			g := w.boot(kind, document(t, "mine"), nil)
			s := w.session(g)
			r, err := w.v.Verify(w.input(g, s, w.evidence(g, s)))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(g.doc)
			if !bytes.Equal(r.InitdataDigest, sum[:]) || r.Reference.Image != "sim" || !r.Simulated || !strings.Contains(r.Simulation, "software TPM") {
				t.Errorf("result %+v", r)
			}
			if len(r.Events) != len(tpmtest.Events()) || r.EKRoot != verifier.SPKIFingerprint(w.ca.Root) {
				t.Errorf("events %v, root %s", r.Events, r.EKRoot)
			}
			if _, err := json.Marshal(r.Claims); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestGuestWithoutInitdata(t *testing.T) {
	w := newWorld(t)
	g := w.boot(0, nil, nil)
	s := w.session(g)
	r, err := w.v.Verify(w.input(g, s, w.evidence(g, s)))
	if err != nil || r.InitdataDigest != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	in := w.input(g, s, w.evidence(g, s))
	in.Initdata = document(t, "mine")
	_, err = w.v.Verify(in)
	wantDenial(t, err, verifier.ReasonInitdataUnexpected)
}

// One boot serves all cases in which the guest is genuine and the message is not.
func TestHostileMessages(t *testing.T) {
	w := newWorld(t)
	g := w.boot(0, document(t, "mine"), nil)
	s := w.session(g)
	good := w.evidence(g, s)
	if _, err := w.v.Verify(w.input(g, s, good)); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*tpm.Evidence)) []byte {
		e, err := tpm.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other := w.session(g)
	for _, c := range []struct {
		name   string
		reason denial.Reason
		in     func(*verifier.Input)
	}{
		{"another initdata", verifier.ReasonInitdataMismatch, func(in *verifier.Input) { in.Initdata = document(t, "other") }},
		{"initdata left out", verifier.ReasonInitdataUnavailable, func(in *verifier.Input) { in.Initdata = nil }},
		{"old nonce", verifier.ReasonCredentialMismatch, func(in *verifier.Input) { in.Nonce, in.RuntimeDataHash = other.nonce, other.hash(t) }},
		{"another TEE key", verifier.ReasonCredentialMismatch, func(in *verifier.Input) { in.RuntimeDataHash = other.hash(t) }},
		{"no credential", verifier.ReasonCredentialMismatch, func(in *verifier.Input) { in.Evidence = edit(func(e *tpm.Evidence) { e.CredentialMAC = nil }) }},
		{"no EK", verifier.ReasonEKMissing, func(in *verifier.Input) { in.Request = nil }},
		{"EK after its time", verifier.ReasonEKUntrusted, func(in *verifier.Input) { in.Now = time.Now().Add(100 * time.Hour) }},
		{"published members only", verifier.ReasonAKMalformed, func(in *verifier.Input) { in.Evidence = edit(func(e *tpm.Evidence) { e.AKArea = nil }) }},
		{"PCR value changed", verifier.ReasonQuoteDigest, func(in *verifier.Input) { in.Evidence = edit(func(e *tpm.Evidence) { e.Quote.PCRs[4][0] ^= 1 }) }},
		{"quote bent", verifier.ReasonQuoteSignature, func(in *verifier.Input) {
			in.Evidence = edit(func(e *tpm.Evidence) { e.Quote.Message[len(e.Quote.Message)-1] ^= 1 })
		}},
		{"event log cut", appraise.ReasonLogMalformed, func(in *verifier.Input) {
			in.Evidence = edit(func(e *tpm.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-3] })
		}},
		{"event log without its last event", appraise.ReasonLogReplay, func(in *verifier.Input) {
			in.Evidence = edit(func(e *tpm.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-50] })
		}},
		{"no event log", appraise.ReasonLogMalformed, func(in *verifier.Input) { in.Evidence = edit(func(e *tpm.Evidence) { e.EventLog = nil }) }},
		{"not evidence", verifier.ReasonEvidenceMalformed, func(in *verifier.Input) { in.Evidence = []byte(`{"tpm_quote":1}`) }},
		{"unknown member", verifier.ReasonEvidenceMalformed, func(in *verifier.Input) { in.Evidence = append([]byte(`{"x":1,`), good[1:]...) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := w.input(g, s, good)
			c.in(&in)
			_, err := w.v.Verify(in)
			d := wantDenial(t, err, c.reason)
			if d.Component != verifier.Component || d.Claim == "" {
				t.Errorf("denial without component or claim: %+v", d)
			}
		})
	}
	t.Run("enrolled key with an old quote", func(t *testing.T) {
		e, err := tpm.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		name := sha256.Sum256(e.AKArea)
		v := w.verifier(verifier.Config{Simulated: verifier.Production, References: []*refvalue.Bundle{tpmtest.References()}, EnrolledAKs: []string{"000b" + refvalue.Digest(name).String()}})
		in := w.input(g, other, edit(func(e *tpm.Evidence) { e.Simulation = "" }))
		in.Request = nil
		_, err = v.Verify(in)
		wantDenial(t, err, verifier.ReasonQuoteReportData)
		in.RuntimeDataHash = s.hash(t)
		if _, err := v.Verify(in); err != nil {
			t.Errorf("enrolled key: %v", err)
		}
	})
	t.Run("simulated evidence in production", func(t *testing.T) {
		v := w.verifier(verifier.Config{Simulated: verifier.Production, EKRoots: []*x509.Certificate{w.ca.Root}, References: []*refvalue.Bundle{tpmtest.References()}})
		_, err := v.Verify(w.input(g, s, good))
		wantDenial(t, err, verifier.ReasonSimulated)
	})
	t.Run("simulated evidence without its note in production", func(t *testing.T) {
		v := w.verifier(verifier.Config{Simulated: verifier.Production, EKRoots: []*x509.Certificate{tpmtest.NewCA(t, "vendor").Root}, References: []*refvalue.Bundle{tpmtest.References()}})
		_, err := v.Verify(w.input(g, s, edit(func(e *tpm.Evidence) { e.Simulation = "" })))
		wantDenial(t, err, verifier.ReasonEKUntrusted)
	})
	t.Run("no reference values", func(t *testing.T) {
		v := w.verifier(verifier.Config{Simulated: verifier.InsecureSimulated, SimulatedRoots: []*x509.Certificate{w.ca.Root}})
		_, err := v.Verify(w.input(g, s, good))
		wantDenial(t, err, appraise.ReasonNoReferenceValues)
	})
}

func TestAnotherVMsEvidence(t *testing.T) {
	w := newWorld(t)
	victim := w.boot(0, document(t, "mine"), nil)
	hostile := w.boot(0, document(t, "hostile"), nil)
	s := w.session(hostile)
	// The victim's TPM cannot activate a credential that was made for another.
	if _, err := victim.att.Evidence(context.Background(), s.hash(t), s.ch); err == nil {
		t.Fatal("a TPM activated another TPM's credential")
	}
	// Its quote alone, over this session's data, with everything else of the hostile VM.
	theirs, err := victim.att.Evidence(context.Background(), s.hash(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	in := w.input(victim, s, theirs)
	_, err = w.v.Verify(in)
	wantDenial(t, err, verifier.ReasonAKMismatch)
	// The session claims the victim's attestation key with the hostile VM's EK.
	s.req = &kbs.TPMRequest{EKCert: hostile.att.RequestExtra().TPM.EKCert, AKPublic: victim.att.RequestExtra().TPM.AKPublic}
	if s.ch, err = w.v.Challenge(s.req, s.nonce); err != nil {
		t.Fatal(err)
	}
	if _, err := hostile.att.Evidence(context.Background(), s.hash(t), s.ch); err == nil {
		t.Fatal("a TPM activated a credential for an attestation key that it does not hold")
	}
	_, err = w.v.Verify(w.input(victim, s, theirs))
	wantDenial(t, err, verifier.ReasonCredentialMismatch)
}

func TestUnexplainedBoot(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, claim string
		reason      denial.Reason
		mutate      func([]refvalue.Event) []refvalue.Event
	}{
		{"changed initrd", "PCR 9: Linux initrd", appraise.ReasonEventUnexplained, func(ev []refvalue.Event) []refvalue.Event {
			ev[5].Digest[0] ^= 1
			return ev
		}},
		{"extra event in an empty register", "PCR 14: ", appraise.ReasonEventUnexplained, func(ev []refvalue.Event) []refvalue.Event {
			return append(ev, refvalue.Event{PCR: 14, Type: refvalue.IPL})
		}},
		{"firmware event in PCR 2", "PCR 2: ", appraise.ReasonEventUnexplained, func(ev []refvalue.Event) []refvalue.Event {
			return append(ev, refvalue.Event{PCR: 2, Type: refvalue.EFIBootServicesDriver})
		}},
		{"event missing", "PCR 5: Exit Boot Services Invocation", appraise.ReasonEventMissing, func(ev []refvalue.Event) []refvalue.Event { return ev[:len(ev)-1] }},
		{"events in another order", "PCR 9: kernel command line", appraise.ReasonEventUnexplained, func(ev []refvalue.Event) []refvalue.Event {
			ev[4], ev[5] = ev[5], ev[4]
			return ev
		}},
		{"event of another type", "PCR 1: BootOrder", appraise.ReasonEventUnexplained, func(ev []refvalue.Event) []refvalue.Event {
			ev[2].Type = refvalue.Action
			return ev
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			g := w.boot(0, document(t, "mine"), c.mutate)
			s := w.session(g)
			_, err := w.v.Verify(w.input(g, s, w.evidence(g, s)))
			d := wantDenial(t, err, c.reason)
			if !strings.HasPrefix(d.Claim, c.claim) || !strings.Contains(d.Source, "test build") || d.Measured == "" || d.Expected == "" {
				t.Errorf("denial %+v, want claim %q", d, c.claim)
			}
		})
	}
	t.Run("extend of an unlisted kind after boot", func(t *testing.T) {
		w.t = t
		g := w.boot(0, document(t, "mine"), nil)
		if err := device.Extend(g.conn, 11, [32]byte{1}); err != nil {
			t.Fatal(err)
		}
		s := w.session(g)
		_, err := w.v.Verify(w.input(g, s, w.evidence(g, s)))
		wantDenial(t, err, appraise.ReasonLogReplay)
	})
	t.Run("PCR 8 extended twice", func(t *testing.T) {
		w.t = t
		g := w.boot(0, document(t, "mine"), nil)
		if err := device.Extend(g.conn, 8, sha256.Sum256(g.doc)); err != nil {
			t.Fatal(err)
		}
		s := w.session(g)
		_, err := w.v.Verify(w.input(g, s, w.evidence(g, s)))
		wantDenial(t, err, verifier.ReasonInitdataMismatch)
	})
	t.Run("PCR 8 not zero at start", func(t *testing.T) {
		c := tpmtest.Start(t)
		if err := device.Extend(c, 8, [32]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := device.BindInitdata(c, [32]byte{2}); err == nil {
			t.Error("bound initdata to a register that was not zero")
		}
	})
}

// hostileQuote makes a key with other attributes in the guest's TPM, and evidence with it.
func hostileQuote(t *testing.T, g *guest, s *session, tmpl tpm2.TPMTPublic, pcrs tpm2.TPMLPCRSelection) *tpm.Evidence {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tmpl)}.Execute(g.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(g.conn) }()
	q, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: s.hash(t)[:32]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: pcrs,
	}.Execute(g.conn)
	if err != nil {
		t.Fatal(err)
	}
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return &tpm.Evidence{AKPublic: spki, AKArea: rsp.OutPublic.Bytes(), Quote: tpm.Quote{Message: q.Quoted.Bytes(), Signature: tpm2.Marshal(q.Signature), PCRs: make([]tpm.PCRHex, tpm.PCRCount)}}
}

func akTemplate(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func TestUnrestrictedAK(t *testing.T) {
	w := newWorld(t)
	g := w.boot(0, document(t, "mine"), nil)
	s := w.session(g)
	e := hostileQuote(t, g, s, akTemplate(false), device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14))
	e.Simulation = "test"
	req := &kbs.TPMRequest{EKCert: s.req.EKCert, AKPublic: e.AKArea}
	if _, err := w.v.Challenge(req, s.nonce); err == nil {
		t.Error("the trustee made a credential for an unrestricted key")
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	in := w.input(g, s, b)
	in.Request = req
	_, err = w.v.Verify(in)
	d := wantDenial(t, err, verifier.ReasonAKAttributes)
	if d.Claim != "AK attribute restricted" {
		t.Errorf("claim %q", d.Claim)
	}
}

func TestQuoteOverOtherPCRs(t *testing.T) {
	w := newWorld(t)
	g := w.boot(-1, document(t, "mine"), nil)
	s := &session{nonce: base64.StdEncoding.EncodeToString(make([]byte, 32))}
	priv, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.key, err = kbs.NewTEEKey(priv.PublicKey()); err != nil {
		t.Fatal(err)
	}
	enrolled := func(e *tpm.Evidence) *verifier.Verifier {
		name := sha256.Sum256(e.AKArea)
		return w.verifier(verifier.Config{Simulated: verifier.Production, EnrolledAKs: []string{"000b" + refvalue.Digest(name).String()}, References: []*refvalue.Bundle{tpmtest.References()}})
	}
	for name, sel := range map[string]tpm2.TPMLPCRSelection{
		"PCR 16 for PCR 9": device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 11, 14),
		"PCR 11 left out":  device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14),
		"no PCR":           device.Selection(),
		"bank SHA-1": {PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: tpm2.TPMAlgSHA1, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14),
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			e := hostileQuote(t, g, s, akTemplate(true), sel)
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			_, err = enrolled(e).Verify(verifier.Input{Evidence: b, Nonce: s.nonce, RuntimeDataHash: s.hash(t), Initdata: g.doc, Now: time.Now()})
			wantDenial(t, err, verifier.ReasonQuoteSelection)
		})
	}
}
