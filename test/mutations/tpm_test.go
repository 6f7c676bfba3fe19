package mutations

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/appraise"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/quote"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// tpmGuest is a booted machine with a software TPM, and its one session.
type tpmGuest struct {
	conn *device.Conn
	tee  *verifier.TEE
	in   *verify.Input
}

func tpmBoot(t *testing.T, ca *tpmtest.CA, tee *verifier.TEE, doc []byte, events []refvalue.Event, after func(*device.Conn)) *tpmGuest {
	t.Helper()
	c := tpmtest.Start(t)
	ca.Provision(t, c, 0)
	log := tpmtest.Boot(t, c, events)
	if err := device.BindInitdata(c, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	if after != nil {
		after(c)
	}
	a, err := sim.New(c, attester.Options{EventLogPath: log})
	if err != nil {
		t.Fatal(err)
	}
	nonce := base64.StdEncoding.EncodeToString([]byte("a nonce of exactly thirty-two by"))
	req := a.RequestExtra()
	ch, err := tee.Challenge(req.TPM, nonce)
	if err != nil {
		t.Fatal(err)
	}
	rd := sha256.Sum256([]byte("session"))
	e, err := a.Evidence(context.Background(), rd[:], ch)
	if err != nil {
		t.Fatal(err)
	}
	extra, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return &tpmGuest{c, tee, &verify.Input{Evidence: e, RequestExtra: extra, Nonce: nonce, ReportData: rd[:], Initdata: doc, Now: time.Now()}}
}

func tpmField(name string, part func(*tpm.Evidence) *[]byte) Field {
	return Field{
		Name: name,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := tpm.Parse(b)
			if err != nil {
				return nil, err
			}
			return *part(e), nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := tpm.Parse(b)
			if err != nil {
				return nil, err
			}
			*part(e) = v
			return json.Marshal(e)
		},
	}
}

func tpmEdit(f func(*tpm.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) { in.Evidence = tpmEdited(t, in.Evidence, f) }
}

func tpmEdited(t testing.TB, evidence json.RawMessage, f func(*tpm.Evidence)) json.RawMessage {
	e, err := tpm.Parse(evidence)
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

// tpmFields are all binary parts of the evidence.
func tpmFields() []Field {
	sig := tpmField("quote signature", func(e *tpm.Evidence) *[]byte { return &e.Quote.Signature })
	sig.Reasons = azReasons(verifier.ReasonQuoteSignature)
	msg := tpmField("quote", func(e *tpm.Evidence) *[]byte { return &e.Quote.Message })
	msg.Reasons = azReasons(verifier.ReasonQuoteSignature)
	ak := tpmField("ak_public", func(e *tpm.Evidence) *[]byte { return &e.AKPublic })
	ak.Reasons = azReasons(verifier.ReasonAKMismatch)
	area := tpmField("ak_tpmt_public", func(e *tpm.Evidence) *[]byte { return &e.AKArea })
	area.Every = 2
	area.Reasons = azReasons(verifier.ReasonAKMalformed, verifier.ReasonAKAttributes, verifier.ReasonAKMismatch)
	mac := tpmField("credential_hmac", func(e *tpm.Evidence) *[]byte { return &e.CredentialMAC })
	mac.Reasons = azReasons(verifier.ReasonCredentialMismatch)
	log := tpmField("event log", func(e *tpm.Evidence) *[]byte { return &e.EventLog })
	// Of an event's 54 bytes the last 4 are the size of its data, here none; the
	// header of 65 bytes names the one bank.
	log.From, log.Every = 65, 3
	entries := tpmField("aael", func(e *tpm.Evidence) *[]byte { return &e.Entries })
	entries.Every, entries.Reasons = 3, azReasons(quote.ReasonEventsMalformed, quote.ReasonEventsMismatch)
	log.Reasons = azReasons(appraise.ReasonLogMalformed, appraise.ReasonLogReplay, appraise.ReasonEventUnexplained, appraise.ReasonEventMissing)
	pcrs := Field{
		Name: "PCR values", Every: 13, Reasons: azReasons(verifier.ReasonQuoteDigest),
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := tpm.Parse(b)
			if err != nil {
				return nil, err
			}
			var out []byte
			for _, p := range e.Quote.PCRs {
				out = append(out, p[:]...)
			}
			return out, nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := tpm.Parse(b)
			if err != nil {
				return nil, err
			}
			for i := range e.Quote.PCRs {
				e.Quote.PCRs[i] = tpm.PCRHex(v[32*i : 32*i+32])
			}
			return json.Marshal(e)
		},
	}
	return []Field{sig, msg, ak, area, mac, log, entries, pcrs}
}

// TestTPM bends the evidence of a software TPM under a test root.
func TestTPM(t *testing.T) {
	ca, stranger := tpmtest.NewCA(t, "machine"), tpmtest.NewCA(t, "machine")
	ca.ListURL, stranger.ListURL = "http://maker.example/ek.crl", "http://maker.example/ek.crl"
	key := make([]byte, 32)
	roots := []*x509.Certificate{ca.Root}
	newTEE := func(c verify.Config, tr verifier.Trust) *verifier.TEE {
		tr.CredentialKey = key
		v, err := verifier.NewTEE(c, tr)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	refs := []*refvalue.Bundle{tpmtest.References()}
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: roots}
	tee := newTEE(cfg, verifier.Trust{References: refs})
	doc := azureDocument(t, initdata.SHA256, "mine")
	g := tpmBoot(t, ca, tee, doc, tpmtest.Events(), func(c *device.Conn) {
		for _, e := range runtimeEvents(refvalue.PCREvents) {
			sum, _ := e.Sum(eventlog.SHA256)
			if err := device.Extend(c, refvalue.PCREvents, [32]byte(sum)); err != nil {
				t.Fatal(err)
			}
		}
	})
	g.in.Evidence = tpmEdited(t, g.in.Evidence, func(e *tpm.Evidence) { e.Entries = runtimeLog(runtimeEvents(refvalue.PCREvents)) })
	serial := ca.Last
	listed := func(at time.Time, by *tpmtest.CA, revoked ...*big.Int) *verifier.TEE {
		c := cfg
		c.Collateral = collateral.NewSet(by.List(t, at, revoked...))
		return newTEE(c, verifier.Trust{References: refs})
	}
	unreadable := cfg
	unreadable.Collateral = collateral.NewSet(&collateral.Item{Origin: "https://maker.example/ek.crl", Body: []byte("x"), Fetched: time.Now()})
	from := func(o *tpmGuest) func(testing.TB, *verify.Input) {
		return func(_ testing.TB, in *verify.Input) { *in = *o.in }
	}
	booted := func(doc []byte, bend func([]refvalue.Event) []refvalue.Event, after func(*device.Conn)) func(testing.TB, *verify.Input) {
		ev := tpmtest.Events()
		if bend != nil {
			ev = bend(ev)
		}
		return from(tpmBoot(t, ca, tee, doc, ev, after))
	}
	extend := func(pcr uint) func(*device.Conn) {
		return func(c *device.Conn) {
			if err := device.Extend(c, pcr, [32]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	victim := tpmBoot(t, ca, tee, doc, tpmtest.Events(), nil)
	Run(t, Suite{
		Verifier: tee,
		Good:     func(testing.TB) *verify.Input { in := *g.in; return &in },
		Fields:   tpmFields(),
		Cases: append(runtimeCases(func(log []byte) func(testing.TB, *verify.Input) {
			return tpmEdit(func(e *tpm.Evidence) { e.Entries = log })
		}), []Case{
			{Name: "run-time register extended without a log", Reason: quote.ReasonEventsMismatch, Mutate: booted(doc, nil, extend(refvalue.PCREvents))},
			{Name: "run-time log without an extend", Reason: quote.ReasonEventsMismatch, Mutate: func(t testing.TB, in *verify.Input) {
				*in = *victim.in
				tpmEdit(func(e *tpm.Evidence) { e.Entries = runtimeLog(runtimeEvents(refvalue.PCREvents)) })(t, in)
			}},
			{Name: "in production", Verifier: newTEE(verify.Config{Kind: verify.Production}, verifier.Trust{EKRoots: roots, References: refs}), Reason: verify.ReasonSimulated},
			{Name: "without the simulation note", Reason: verify.ReasonNotSimulated, Mutate: tpmEdit(func(e *tpm.Evidence) { e.Simulation = "" })},
			{Name: "another machine's root", Verifier: newTEE(verify.Config{Kind: verify.InsecureSimulated}, verifier.Trust{References: refs}), Reason: verifier.ReasonEKUntrusted},
			{Name: "revoked endorsement certificate", Verifier: listed(time.Now(), ca, big.NewInt(1234), serial), Reason: verifier.ReasonEKRevoked},
			{Name: "old revocation list", Verifier: listed(time.Now().AddDate(0, 0, -3), ca), Reason: verify.ReasonCollateralExpired},
			{Name: "revocation list of tomorrow", Verifier: listed(time.Now().AddDate(0, 0, 3), ca), Reason: verify.ReasonCollateralExpired},
			{Name: "another maker's revocation list", Verifier: listed(time.Now(), stranger), Reason: verify.ReasonCollateralUntrusted},
			{Name: "revocation list that is none", Verifier: newTEE(unreadable, verifier.Trust{References: refs}), Reason: verify.ReasonCollateralMalformed},
			{Name: "expired endorsement certificate", Reason: verifier.ReasonEKUntrusted, Mutate: func(_ testing.TB, in *verify.Input) { in.Now = in.Now.AddDate(1, 0, 0) }},
			{Name: "no reference values", Verifier: newTEE(cfg, verifier.Trust{}), Reason: appraise.ReasonNoReferenceValues},
			{Name: "no endorsement certificate", Reason: verifier.ReasonEKMissing, Mutate: func(_ testing.TB, in *verify.Input) { in.RequestExtra = nil }},
			{Name: "extra-params that are none", Reason: verifier.ReasonEvidenceMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.RequestExtra = []byte(`{"tpm":1}`) }},
			{Name: "another TPM's session", Reason: verifier.ReasonAKMismatch, Mutate: func(_ testing.TB, in *verify.Input) { in.RequestExtra = victim.in.RequestExtra }},
			{Name: "another TPM's evidence", Reason: verifier.ReasonAKMismatch, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = victim.in.Evidence }},
			{Name: "old nonce", Reason: verifier.ReasonCredentialMismatch, Mutate: func(_ testing.TB, in *verify.Input) { in.Nonce = "other" }},
			{Name: "another TEE key", Reason: verifier.ReasonCredentialMismatch, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 32) }},
			{Name: "another TEE key, credential renewed", Reason: verify.ReasonReportData, Mutate: tpmStale(t, g)},
			{Name: "published members only", Reason: verifier.ReasonAKMalformed, Mutate: tpmEdit(func(e *tpm.Evidence) { e.AKArea = nil })},
			{Name: "two values exchanged", Reason: verifier.ReasonQuoteDigest, Mutate: tpmEdit(func(e *tpm.Evidence) {
				e.Quote.PCRs[8], e.Quote.PCRs[16] = e.Quote.PCRs[16], e.Quote.PCRs[8]
			})},
			{Name: "no event log", Reason: appraise.ReasonLogMalformed, Mutate: tpmEdit(func(e *tpm.Evidence) { e.EventLog = nil })},
			{Name: "event log cut by one event", Reason: appraise.ReasonLogReplay, Mutate: tpmEdit(func(e *tpm.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-50] })},
			{Name: "event log with an event twice", Reason: appraise.ReasonLogReplay, Mutate: tpmEdit(func(e *tpm.Evidence) {
				e.EventLog = append(e.EventLog[:len(e.EventLog):len(e.EventLog)], e.EventLog[len(e.EventLog)-50:]...)
			})},
			{Name: "changed initrd", Reason: appraise.ReasonEventUnexplained, Mutate: booted(doc, func(ev []refvalue.Event) []refvalue.Event { ev[5].Digest[0] ^= 1; return ev }, nil)},
			{Name: "event missing", Reason: appraise.ReasonEventMissing, Mutate: booted(doc, func(ev []refvalue.Event) []refvalue.Event { return ev[:len(ev)-1] }, nil)},
			{Name: "extend after the boot", Reason: appraise.ReasonLogReplay, Mutate: booted(doc, nil, extend(11))},
			{Name: "PCR 8 extended twice", Reason: verify.ReasonInitdataMismatch, Mutate: booted(doc, nil, extend(8))},
			{Name: "other initdata", Reason: verify.ReasonInitdataMismatch, Mutate: func(t testing.TB, in *verify.Input) { in.Initdata = azureDocument(t, initdata.SHA256, "other") }},
			{Name: "no initdata", Reason: verify.ReasonInitdataMissing, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }},
			{Name: "initdata of another algorithm", Reason: verify.ReasonInitdataMalformed, Mutate: booted(azureDocument(t, initdata.SHA384, "mine"), nil, nil)},
			{Name: "initdata that is none", Reason: verify.ReasonInitdataMalformed, Mutate: booted([]byte("x"), nil, nil)},
		}...),
	})
	r, err := tee.Verify(g.in)
	if err != nil {
		t.Fatal(err)
	}
	shown(t, r[0])
}

// The claim ek_crl says whether the maker's lists speak well of an endorsement
// key, or nothing is known; a policy may ask for the former.
func TestTPMRevocationClaim(t *testing.T) {
	ca := tpmtest.NewCA(t, "machine")
	ca.ListURL = "http://maker.example/ek.crl"
	other := tpmtest.NewCA(t, "machine")
	other.ListURL = "http://maker.example/other.crl"
	key := make([]byte, 32)
	for name, c := range map[string]struct {
		src  collateral.Source
		want string
	}{
		"no collateral":      {nil, "absent"},
		"another list":       {collateral.NewSet(other.List(t, time.Now())), "absent"},
		"the maker's list":   {collateral.NewSet(ca.List(t, time.Now())), "good"},
		"others are revoked": {collateral.NewSet(ca.List(t, time.Now(), big.NewInt(1), big.NewInt(2))), "good"},
	} {
		tee, err := verifier.NewTEE(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{ca.Root}, Collateral: c.src},
			verifier.Trust{CredentialKey: key, References: []*refvalue.Bundle{tpmtest.References()}})
		if err != nil {
			t.Fatal(err)
		}
		g := tpmBoot(t, ca, tee, azureDocument(t, initdata.SHA256, "mine"), tpmtest.Events(), nil)
		r, err := tee.Verify(g.in)
		if err != nil || r[0].Claims["ek_crl"] != c.want {
			t.Errorf("%s: %v, %v, want %s", name, r, err, c.want)
		}
	}
}

// tpmStale pairs an old quote with a credential activated for other runtime data.
func tpmStale(t *testing.T, g *tpmGuest) func(testing.TB, *verify.Input) {
	t.Helper()
	x, err := (&kbs.Request{ExtraParams: g.in.RequestExtra}).Extra()
	if err != nil {
		t.Fatal(err)
	}
	ch, err := g.tee.Challenge(x.TPM, g.in.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	a, err := sim.New(tpmKeep{g.conn}, attester.Options{EventLogPath: "/dev/null"})
	if err != nil {
		t.Fatal(err)
	}
	rd := sha256.Sum256([]byte("another session"))
	b, err := a.Evidence(context.Background(), rd[:], ch)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := tpm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return func(t testing.TB, in *verify.Input) {
		in.ReportData = rd[:]
		tpmEdit(func(e *tpm.Evidence) { e.CredentialMAC = fresh.CredentialMAC })(t, in)
	}
}

// tpmKeep is a connection that its user does not close.
type tpmKeep struct{ *device.Conn }

func (tpmKeep) Close() error { return nil }

// A selection that leaves registers out, or takes another bank, by a key that is
// enrolled: no credential stands in the way.
func TestTPMSelection(t *testing.T) {
	c := tpmtest.Start(t)
	log := tpmtest.Boot(t, c, tpmtest.Events())
	doc := azureDocument(t, initdata.SHA256, "mine")
	if err := device.BindInitdata(c, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	tmpl := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tmpl)}.Execute(c)
	if err != nil {
		t.Fatal(err)
	}
	area, err := ak.OutPublic.Contents()
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
	events, err := device.ReadEventLog(log, tpm.MaxEventLog)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]uint, 24)
	for i := range all {
		all[i] = uint(i)
	}
	values, err := device.ReadPCRs(c, all...)
	if err != nil {
		t.Fatal(err)
	}
	rd := sha256.Sum256([]byte("session"))
	evidence := func(sel tpm2.TPMLPCRSelection) []byte {
		q, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: rd[:]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: sel,
		}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
		e := &tpm.Evidence{AKPublic: spki, AKArea: ak.OutPublic.Bytes(), EventLog: events, Quote: tpm.Quote{Message: q.Quoted.Bytes(), Signature: tpm2.Marshal(q.Signature)}}
		for i := range all {
			e.Quote.PCRs = append(e.Quote.PCRs, values[uint(i)])
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	name := sha256.Sum256(ak.OutPublic.Bytes())
	v, err := verifier.NewTEE(verify.Config{Kind: verify.Production}, verifier.Trust{
		CredentialKey: make([]byte, 32), EnrolledAKs: []string{"000b" + refvalue.Digest(name).String()}, References: []*refvalue.Bundle{tpmtest.References()},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := evidence(device.Selection(all...))
	quoted := func(sel tpm2.TPMLPCRSelection) func(testing.TB, *verify.Input) {
		b := evidence(sel)
		return func(_ testing.TB, in *verify.Input) { in.Evidence = b }
	}
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: good, ReportData: rd[:], Initdata: doc, Now: time.Now()}
		},
		Cases: []Case{
			{Name: "PCR 16 for PCR 9", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 11, 14, 15))},
			{Name: "PCR 23 for PCR 8", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 15, 23))},
			{Name: "PCR 15 left out", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14))},
			{Name: "PCR 11 left out", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(device.Selection(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15))},
			{Name: "no PCR", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(device.Selection())},
			{Name: "bank SHA-1", Reason: verifier.ReasonQuoteSelection, Mutate: quoted(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: tpm2.TPMAlgSHA1, PCRSelect: tpm2.PCClientCompatible.PCRs(all...),
			}}})},
			{Name: "other nonce or TEE key", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 32) }},
		},
	})
}
