package mutations

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/tdx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

var tdxDoc = []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"x\" = \"y\"\n")

var tdxCodec = dcapCodec{
	get: func(b json.RawMessage) ([]byte, error) {
		e, err := tdx.Parse(b)
		if err != nil {
			return nil, err
		}
		return e.Quote, nil
	},
	set: func(b json.RawMessage, raw []byte) (json.RawMessage, error) {
		e, err := tdx.Parse(b)
		if err != nil {
			return nil, err
		}
		e.Quote = raw
		return e.Encode()
	},
}

// tdxEvents is a boot: an event of each RTMR, of which the first has a digest
// that is not its data's.
func tdxEvents() []eventlog.Event {
	var out []eventlog.Event
	for r := range uint32(tdx.RTMRs) {
		out = append(out, eventlog.NewEvent(r+1, refvalue.Separator, []byte{0, 0, 0, byte(r)}, eventlog.SHA384))
	}
	return append(out, eventlog.NewAAEL(4, "domain operation content", eventlog.SHA384))
}

func tdxLog(events []eventlog.Event) []byte {
	b := eventlog.SpecHeader(eventlog.SHA384)
	for i := range events {
		b = events[i].Append(b)
	}
	return b
}

// tdxMake makes evidence of a machine; change bends the TD before it is quoted.
func tdxMake(t testing.TB, p *intelsim.Platform, version uint16, change func(*quote.TD)) json.RawMessage {
	t.Helper()
	log := tdxLog(tdxEvents())
	l, err := eventlog.ParseCC(log)
	if err != nil {
		t.Fatal(err)
	}
	regs, err := l.ReplayRTMRs(eventlog.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	td := p.TD()
	copy(td.ReportData[:], dcapReportData)
	td.MRConfigID = sha512.Sum384(tdxDoc)
	for i := range regs {
		copy(td.RTMR[i][:], regs[i])
	}
	if version == 5 {
		td.V15 = &quote.TD15{TCBSVN2: td.TCBSVN}
	}
	if change != nil {
		change(&td)
	}
	raw, err := p.QuoteTD(&td, version)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&tdx.Evidence{EventLog: log, Quote: raw, Simulation: "everything"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tdxLogField flips bytes of the event log.
func tdxLogField(name string, from, size int, reasons ...denial.Reason) Field {
	return Field{
		Name: name, From: from, To: from + size, Reasons: reasons,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := tdx.Parse(b)
			if err != nil {
				return nil, err
			}
			return e.EventLog, nil
		},
		Set: func(b json.RawMessage, log []byte) (json.RawMessage, error) {
			e, err := tdx.Parse(b)
			if err != nil {
				return nil, err
			}
			e.EventLog = log
			return e.Encode()
		},
	}
}

func tdxReplaceLog(log []byte) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		t.Helper()
		var err error
		if in.Evidence, err = tdxLogField("", 0, 0).Set(in.Evidence, log); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTDX(t *testing.T) {
	p := dcapMachine(t, intelsim.Options{})
	items := dcapItems(t, p, intelsim.CollateralOptions{})
	v, err := verifier.New(dcapConfig(p, items))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{4, 5} {
		body := map[uint16]int{4: quote.TD10Size, 5: quote.TD15Size}[version]
		good := tdxMake(t, p, version, nil)
		head := len(eventlog.SpecHeader(eventlog.SHA384))
		s := Suite{
			Verifier: v,
			Good: func(testing.TB) *verify.Input {
				return &verify.Input{Evidence: bytes.Clone(good), ReportData: dcapReportData, Initdata: tdxDoc, Now: dcapDay}
			},
			Fields: append(dcapThin(dcapFields(tdxCodec, int(version), body), map[uint16]int{4: 1, 5: 7}[version]),
				tdxLogField("event's register", head, 4, verifier.ReasonEventLogMalformed, verifier.ReasonEventLogMismatch),
				tdxLogField("event's digest", head+14, 48, verifier.ReasonEventLogMismatch)),
			Cases: append(dcapCases(t, p, "tdx", tdxCodec, verifier.New), tdxCases(t, p, version)...),
		}
		t.Run(map[uint16]string{4: "quote v4", 5: "quote v5"}[version], func(t *testing.T) { Run(t, s) })
	}
}

func tdxCases(t *testing.T, p *intelsim.Platform, version uint16) []Case {
	t.Helper()
	items := dcapItems(t, p, intelsim.CollateralOptions{})
	launch := func(change func(*quote.TD)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) { t.Helper(); in.Evidence = tdxMake(t, p, version, change) }
	}
	played := func(change func(*intelsim.Platform)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			t.Helper()
			q := *p
			change(&q)
			in.Evidence = tdxMake(t, &q, version, nil)
		}
	}
	// TCB information of SGX where that of TDX should be.
	swapped := dcapItems(t, p, intelsim.CollateralOptions{})
	for _, what := range []string{"/tcb?", "/qe/identity"} {
		for _, to := range swapped {
			for _, from := range items {
				if bytes.Contains([]byte(to.Origin), []byte("/tdx/")) && bytes.Contains([]byte(from.Origin), []byte("/sgx/")) &&
					bytes.Contains([]byte(to.Origin), []byte(what)) && bytes.Contains([]byte(from.Origin), []byte(what)) {
					to.Body, to.Chain = from.Body, from.Chain
				}
			}
		}
	}
	exchanged, err := verifier.New(dcapConfig(p, swapped))
	if err != nil {
		t.Fatal(err)
	}
	module, err := verifier.New(dcapConfig(p, dcapItems(t, p, intelsim.CollateralOptions{Module: intel.StatusRevoked})))
	if err != nil {
		t.Fatal(err)
	}
	events := tdxEvents()
	again := append(tdxEvents(), events[len(events)-1])
	retold := tdxEvents()
	retold[4].Data = eventlog.NewAAEL(4, "domain operation other", eventlog.SHA384).Data
	other := tdxEvents()
	other[4] = eventlog.NewAAEL(4, "domain operation other", eventlog.SHA384)
	moved := tdxEvents()
	moved[4].Register = 3
	reordered := tdxEvents()
	reordered[3], reordered[4] = reordered[4], reordered[3]
	return []Case{
		{Name: "another document", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = append(bytes.Clone(tdxDoc), '\n') }, Reason: verify.ReasonInitdataMismatch},
		{Name: "document withheld", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }, Reason: verify.ReasonInitdataMissing},
		{Name: "document not measured", Mutate: launch(func(td *quote.TD) { td.MRConfigID = [48]byte{} }), Reason: verify.ReasonInitdataUnexpected},
		{Name: "document of another algorithm", Reason: verify.ReasonInitdataMalformed, Mutate: func(t testing.TB, in *verify.Input) {
			in.Initdata = bytes.Replace(tdxDoc, []byte("sha384"), []byte("sha256"), 1)
			in.Evidence = tdxMake(t, p, version, func(td *quote.TD) { td.MRConfigID = sha512.Sum384(in.Initdata) })
		}},
		{Name: "TDX module of another signer", Mutate: launch(func(td *quote.TD) { td.MRSignerSEAM[0] = 1 }), Reason: intel.ReasonModuleMismatch},
		{Name: "TDX module of an unknown version", Mutate: launch(func(td *quote.TD) { td.TCBSVN[1] = 9 }), Reason: intel.ReasonModuleMismatch},
		{Name: "TDX module in debug", Mutate: launch(func(td *quote.TD) { td.SEAMAttributes[0] = 1 }), Reason: intel.ReasonModuleMismatch},
		{Name: "old TDX module", Mutate: launch(func(td *quote.TD) { td.TCBSVN[0]-- }), Reason: intel.ReasonTCBUnsupported},
		{Name: "old late microcode", Mutate: launch(func(td *quote.TD) { td.TCBSVN[2]-- }), Reason: intel.ReasonTCBUnsupported},
		{Name: "TDX module revoked", Verifier: module, Reason: intel.ReasonTCBRevoked},
		{Name: "SGX's TCB information", Verifier: exchanged, Reason: intel.ReasonTCBMismatch},
		{Name: "QE of another signer", Mutate: played(func(p *intelsim.Platform) { p.TDQE.MRSigner[0] ^= 1 }), Reason: intel.ReasonQEIdentity},
		{Name: "QE in debug", Mutate: played(func(p *intelsim.Platform) { p.TDQE.Flags[0] |= byte(quote.FlagDebug) }), Reason: intel.ReasonQEIdentity},
		{Name: "QE of another product", Mutate: played(func(p *intelsim.Platform) { p.TDQE.ISVProdID[0]++ }), Reason: intel.ReasonQEIdentity},
		{Name: "old QE", Mutate: played(func(p *intelsim.Platform) { p.TDQE.ISVSVN[0]-- }), Reason: intel.ReasonTCBUnsupported},
		{Name: "an enclave's quote", Reason: intel.ReasonQuoteType, Mutate: func(t testing.TB, in *verify.Input) {
			e := p.Enclave()
			raw, err := p.QuoteEnclave(&e, 3)
			if err != nil {
				t.Fatal(err)
			}
			if in.Evidence, err = tdxCodec.set(in.Evidence, raw); err != nil {
				t.Fatal(err)
			}
		}},
		{Name: "log of another boot", Mutate: tdxReplaceLog(tdxLog(tdxEvents()[1:])), Reason: verifier.ReasonEventLogMismatch},
		{Name: "log without its last event", Mutate: tdxReplaceLog(tdxLog(events[:len(events)-1])), Reason: verifier.ReasonEventLogMismatch},
		{Name: "log with an event twice", Mutate: tdxReplaceLog(tdxLog(again)), Reason: verifier.ReasonEventLogMismatch},
		{Name: "log in another order", Mutate: tdxReplaceLog(tdxLog(reordered)), Reason: verifier.ReasonEventLogMismatch},
		{Name: "another run-time event", Mutate: tdxReplaceLog(tdxLog(other)), Reason: verifier.ReasonEventLogMismatch},
		{Name: "another text under a run-time event's digest", Mutate: tdxReplaceLog(tdxLog(retold)), Reason: verifier.ReasonEventLogMalformed},
		{Name: "run-time event of another register", Mutate: tdxReplaceLog(tdxLog(moved)), Reason: verifier.ReasonEventLogMismatch},
		{Name: "run-time register extended, no log", Mutate: tdxReplaceLog(nil), Reason: verifier.ReasonEventLogMissing},
		{Name: "run-time event that was not extended", Mutate: launch(func(td *quote.TD) { td.RTMR[3] = [48]byte{} }), Reason: verifier.ReasonEventLogMismatch},
		{Name: "run-time register extended once more", Reason: verifier.ReasonEventLogMismatch, Mutate: launch(func(td *quote.TD) {
			td.RTMR[3] = sha512.Sum384(append(td.RTMR[3][:], make([]byte, 48)...))
		})},
		{Name: "event of a register that no quote has", Reason: verifier.ReasonEventLogMalformed,
			Mutate: tdxReplaceLog(tdxLog(append(tdxEvents(), eventlog.NewEvent(0, refvalue.Separator, []byte{0}, eventlog.SHA384))))},
		{Name: "log cut", Mutate: tdxReplaceLog(tdxLog(events)[:300]), Reason: verifier.ReasonEventLogMalformed},
		{Name: "no quote", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = json.RawMessage(`{"cc_eventlog":null,"quote":""}`) }},
		{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) {
			in.Evidence = append(bytes.TrimSuffix(in.Evidence, []byte("}")), `,"more":1}`...)
		}},
	}
}

// A machine's own quote, with what Intel published for it.
func TestTDXOutside(t *testing.T) {
	cfg := verify.Config{Kind: verify.Production, Collateral: inteltest.Collateral(t), InsecureExpiredCollateral: true}
	v, err := verifier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&tdx.Evidence{Quote: inteltest.QuoteV5()}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	simulated, err := verifier.New(verify.Config{Kind: verify.InsecureSimulated})
	if err != nil {
		t.Fatal(err)
	}
	cfg.InsecureExpiredCollateral = false
	strict, err := verifier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{
				Evidence: bytes.Clone(b), InsecureSkipReportData: true, InsecureSkipInitdata: true, Now: inteltest.DayV5,
			}
		},
		Fields: dcapThin(dcapFields(tdxCodec, 5, quote.TD15Size), 5),
		Cases: []Case{
			{Name: "expired collateral", Verifier: strict, Reason: verify.ReasonCollateralExpired},
			{Name: "in a simulated namespace", Verifier: simulated, Reason: verify.ReasonNotSimulated},
			{Name: "in a simulated namespace, with a note", Verifier: simulated, Reason: verify.ReasonNotSimulated, Mutate: func(t testing.TB, in *verify.Input) {
				if in.Evidence, err = (&tdx.Evidence{Quote: inteltest.QuoteV5(), Simulation: "none"}).Encode(); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "its initdata is not measured", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = tdxDoc }, Reason: verify.ReasonInitdataUnexpected},
		},
	})
}
