package mutations

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	"github.com/cofferproject/coffer/tee/csv/verifier"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/verify"
)

func csvWorld(t testing.TB) *csvtest.World {
	w, err := csvtest.New()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func csvVerifier(t testing.TB, root *chain.Root, file []byte, allow ...string) verify.Verifier {
	c := verify.Config{Kind: verify.Production, AllowUnproven: allow}
	if file != nil {
		c.Collateral = collateral.NewSet(&collateral.Item{Origin: verifier.KeyService + csvtest.Serial, Body: file, Fetched: time.Now()})
	}
	v, err := verifier.New(verifier.Config{Config: c, InsecureTestRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func csvJSON(t testing.TB, e *csv.Evidence, err error) json.RawMessage {
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// csvBend changes decoded evidence.
func csvBend(f func(*csv.Evidence)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		e, err := csv.Parse(in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		f(e)
		in.Evidence = csvJSON(t, e, nil)
	}
}

func csvField(name string, from, to, every int, of func(*csv.Evidence) []byte, reasons ...denial.Reason) Field {
	return Field{
		Name: name, From: from, To: to, Every: every, Reasons: reasons,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := csv.Parse(b)
			if err != nil {
				return nil, err
			}
			return of(e), nil
		},
		Set: func(b json.RawMessage, field []byte) (json.RawMessage, error) {
			e, err := csv.Parse(b)
			if err != nil {
				return nil, err
			}
			copy(of(e), field)
			return json.Marshal(e)
		},
	}
}

func csvReport(e *csv.Evidence) []byte { return e.Report[:] }

// csvLog makes an event log and the registers it leads to.
func csvLog() (log []byte, rtmr [4][32]byte) {
	log = eventlog.AAELHeader()
	for i := range uint32(4) {
		e := eventlog.NewEvent(i+1, refvalue.EventTag, []byte{byte(i), 7}, eventlog.SM3)
		log = e.Append(log)
		sum, _ := e.Sum(eventlog.SM3)
		rtmr[i] = [32]byte(eventlog.SM3.Hash(append(make([]byte, 32), sum...)))
	}
	return append(log, eventlog.Padding...), rtmr
}

func csvCases(t testing.TB, w *csvtest.World, both []string) []Case {
	other := csvWorld(t)
	file, root := w.File(), w.Root()
	bentFile := func(at int) []byte { b := w.File(); b[at] ^= 1; return b }
	return []Case{
		{Name: "wrong nonce", Reason: verify.ReasonReportData, Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 32); in.ReportData[0] = 1 }},
		{Name: "initdata", Reason: verify.ReasonInitdataUnbound, Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("version = \"0.1.0\"") }},
		{Name: "Hygon's root key", Reason: verifier.ReasonHSK, Verifier: csvVerifier(t, nil, file, both...)},
		{Name: "another root key", Reason: verifier.ReasonHSK, Verifier: csvVerifier(t, other.Root(), file, both...)},
		{Name: "chain of another chip", Reason: verifier.ReasonHSK, Verifier: csvVerifier(t, root, other.File(), both...)},
		{Name: "CEK of another chip", Reason: verifier.ReasonCEK, Verifier: csvVerifier(t, root, append(w.HSK[:len(w.HSK):len(w.HSK)], other.CEK[:]...), both...)},
		{Name: "HSK bent", Reason: verifier.ReasonHSK, Verifier: csvVerifier(t, root, bentFile(70), both...)},
		{Name: "HSK usage", Reason: verifier.ReasonHSK, Verifier: csvVerifier(t, root, bentFile(36), both...)},
		{Name: "CEK usage", Reason: verifier.ReasonCEK, Verifier: csvVerifier(t, root, bentFile(csv.RootCertSize+8), both...)},
		{Name: "CEK signer's usage", Reason: verifier.ReasonCEK, Verifier: csvVerifier(t, root, bentFile(csv.RootCertSize+1044), both...)},
		{Name: "no collateral", Reason: verify.ReasonCollateralMissing, Verifier: csvVerifier(t, root, nil, both...)},
		{Name: "collateral cut", Reason: verify.ReasonCollateralMalformed, Verifier: csvVerifier(t, root, file[:len(file)-1], both...)},
		{Name: "collateral padded", Reason: verify.ReasonCollateralMalformed, Verifier: csvVerifier(t, root, append(file[:len(file):len(file)], 0), both...)},
		{Name: "not allowed", Reason: verify.ReasonUnproven, Verifier: csvVerifier(t, root, file)},
		{Name: "PEK of another chip", Reason: verifier.ReasonSigner, Mutate: csvBend(func(e *csv.Evidence) { e.PEK = other.PEK })},
		{Name: "serial number of another chip", Reason: verifier.ReasonSigner, Mutate: csvBend(func(e *csv.Evidence) { e.Serial[0] = 'X' })},
		{Name: "serial number with a path", Reason: verifier.ReasonMalformed, Mutate: csvBend(func(e *csv.Evidence) { copy(e.Serial[:], "../../x") })},
		{Name: "no serial number", Reason: verifier.ReasonMalformed, Mutate: csvBend(func(e *csv.Evidence) { clear(e.Serial[:]) })},
		{Name: "chain of another chip in the evidence", Reason: verifier.ReasonHSK, Mutate: csvBend(func(e *csv.Evidence) { e.HSK, e.CEK = &other.HSK, &other.CEK })},
		{Name: "unknown magic", Reason: verifier.ReasonMalformed, Mutate: csvBend(func(e *csv.Evidence) { e.Magic[0] ^= 1 })},
		{Name: "unknown flags", Reason: verifier.ReasonMalformed, Mutate: csvBend(func(e *csv.Evidence) { e.Magic, e.Flags = csv.ExtendedMagic, 2 })},
		{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = append([]byte(`{"extra":1,`), in.Evidence[1:]...) }},
		{Name: "simulated namespace", Reason: verify.ReasonNotSimulated, Verifier: func() verify.Verifier {
			v, err := verifier.New(verifier.Config{Config: verify.Config{Kind: verify.InsecureSimulated, AllowUnproven: both}, InsecureTestRoot: root})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}()},
	}
}

func TestCSVV1(t *testing.T) {
	w := csvWorld(t)
	e, err := w.V1(csvtest.Good())
	b := csvJSON(t, e, err)
	bent := func(f func(*csvtest.Body)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			body := csvtest.Good()
			f(&body)
			e, err := w.V1(body)
			in.Evidence = csvJSON(t, e, err)
		}
	}
	v := csvVerifier(t, w.Root(), w.File(), verifier.UnprovenChain)
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, ReportData: make([]byte, 64), Now: time.Now()}
		},
		Fields: []Field{
			csvField("signed body", 0, 180, 5, csvReport, verifier.ReasonReportSignature),
			// Version 1 signs neither of these; a flip shows in what they mask.
			csvField("signature usage, algorithm and anonce", 180, 192, 1, csvReport, verifier.ReasonReportSignature),
			csvField("signature", 192, 336, 11, csvReport, verifier.ReasonReportSignature),
			csvField("signer's PEK", 336, 336+csv.CertSize, 97, csvReport, verifier.ReasonSigner),
			csvField("signer's serial number", 336+csv.CertSize, 336+csv.CertSize+64, 3, csvReport, verifier.ReasonSigner),
			csvField("reserved bytes", 336+csv.CertSize+64, 336+csv.CertSize+96, 5, csvReport, verifier.ReasonMalformed),
			csvField("behind the report", 2548, 4096, 101, csvReport, verifier.ReasonMalformed),
			csvField("PEK", 0, 0, 97, func(e *csv.Evidence) []byte { return e.PEK[:] }, verifier.ReasonSigner),
			csvField("magic", 0, 0, 1, func(e *csv.Evidence) []byte { return e.Magic[:] }, verifier.ReasonMalformed),
		},
		Cases: append(csvCases(t, w, []string{verifier.UnprovenChain}),
			Case{Name: "signed as another key", Reason: verifier.ReasonReportSignature, Mutate: bent(func(b *csvtest.Body) { b.SigUsage = csv.UsageOCA })},
			Case{Name: "read as version 2", Reason: verify.ReasonUnproven, Mutate: csvBend(func(e *csv.Evidence) { e.Magic, e.Flags = csv.ExtendedMagic, 1 })},
		),
	})
	for policy, debug := range map[uint32]bool{0x45: false, 0x44: true, 0: true} {
		body := csvtest.Good()
		body.Policy = policy
		e, err := w.V1(body)
		r, err := v.Verify(&verify.Input{Evidence: csvJSON(t, e, err), ReportData: make([]byte, 64), Now: time.Now()})
		if err != nil || r[0].Debug != debug || len(r[0].Unproven) != 1 {
			t.Errorf("policy %#x: %+v, %v", policy, r, err)
		}
	}
}

// The chain as evidence may bring it along, bent in every certificate.
func TestCSVChainInEvidence(t *testing.T) {
	w := csvWorld(t)
	e, err := w.V1(csvtest.Good())
	if err != nil {
		t.Fatal(err)
	}
	e.HSK, e.CEK = &w.HSK, &w.CEK
	b := csvJSON(t, e, nil)
	// pek bends the PEK in both places where it is.
	pek := func(e *csv.Evidence) []byte { return e.PEK[:] }
	pekField := csvField("PEK and its copy", 0, 1044, 37, pek, verifier.ReasonPEK)
	set := pekField.Set
	pekField.Set = func(ev json.RawMessage, field []byte) (json.RawMessage, error) {
		ev, err := set(ev, field)
		if err != nil {
			return nil, err
		}
		e, err := csv.Parse(ev)
		if err != nil {
			return nil, err
		}
		copy(e.Report[336:], e.PEK[:])
		return json.Marshal(e)
	}
	Run(t, Suite{
		Verifier: csvVerifier(t, w.Root(), nil, verifier.UnprovenChain),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, ReportData: make([]byte, 64), Now: time.Now()}
		},
		Fields: []Field{
			csvField("HSK", 0, 720, 23, func(e *csv.Evidence) []byte { return e.HSK[:] }, verifier.ReasonHSK),
			csvField("CEK", 0, 1196, 37, func(e *csv.Evidence) []byte { return e.CEK[:] }, verifier.ReasonCEK),
			pekField,
		},
		Cases: []Case{
			{Name: "half a chain", Reason: verifier.ReasonMalformed, Mutate: func(t testing.TB, in *verify.Input) {
				var v map[string]any
				if err := json.Unmarshal(in.Evidence, &v); err != nil {
					t.Fatal(err)
				}
				delete(v["cert_chain"].(map[string]any)["hsk_cek"].(map[string]any), "hsk")
				var err error
				if in.Evidence, err = json.Marshal(v); err != nil {
					t.Fatal(err)
				}
			}},
		},
	})
}

func TestCSVV2(t *testing.T) {
	w := csvWorld(t)
	log, rtmr := csvLog()
	good := csvtest.Good()
	good.RTMR = rtmr
	e, err := w.V2(good, log)
	b := csvJSON(t, e, err)
	both := []string{verifier.UnprovenChain, verifier.UnprovenV2}
	v := csvVerifier(t, w.Root(), w.File(), both...)
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: b, ReportData: make([]byte, 64), Now: time.Now()}
		},
		Fields: []Field{
			csvField("signed body", 0, 1024, 31, csvReport, verifier.ReasonReportSignature),
			csvField("signature", 1024, 1168, 11, csvReport, verifier.ReasonReportSignature),
			csvField("signer", 1168, 1168+csv.CertSize+64, 97, csvReport, verifier.ReasonSigner),
			csvField("event log's digests", 83, 115, 1, func(e *csv.Evidence) []byte { return e.EventLog }, verifier.ReasonReplay, verifier.ReasonEventLog),
		},
		Cases: append(csvCases(t, w, both),
			Case{Name: "version 2 not allowed", Reason: verify.ReasonUnproven, Verifier: csvVerifier(t, w.Root(), w.File(), verifier.UnprovenChain)},
			Case{Name: "event log of another boot", Reason: verifier.ReasonReplay, Mutate: csvBend(func(e *csv.Evidence) { e.EventLog = eventlog.AAELHeader() })},
			Case{Name: "event log cut", Reason: verifier.ReasonEventLog, Mutate: csvBend(func(e *csv.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-20] })},
			Case{Name: "event log empty", Reason: verifier.ReasonEventLog, Mutate: csvBend(func(e *csv.Evidence) { e.EventLog = []byte{} })},
			Case{Name: "read as version 1", Reason: verifier.ReasonMalformed, Mutate: csvBend(func(e *csv.Evidence) { e.Flags = 0 })},
		),
	})
	r, err := v.Verify(&verify.Input{Evidence: b, ReportData: make([]byte, 64), Now: time.Now()})
	if err != nil || len(r[0].Unproven) != 2 || r[0].Claims["version"] != "2" || len(r[0].Claims["uefi_event_logs"].([]eventlog.Description)) != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}
