package mutations

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"testing"

	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/sgx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

var sgxDoc = bytes.Replace(tdxDoc, []byte("sha384"), []byte("sha512"), 1)

var sgxCodec = dcapCodec{
	get: func(b json.RawMessage) ([]byte, error) {
		e, err := sgx.Parse(b)
		if err != nil {
			return nil, err
		}
		return e.Quote, nil
	},
	set: func(b json.RawMessage, raw []byte) (json.RawMessage, error) {
		e, err := sgx.Parse(b)
		if err != nil {
			return nil, err
		}
		e.Quote = raw
		return e.Encode()
	},
}

// sgxMake makes evidence of a machine; change bends the enclave before it is quoted.
func sgxMake(t testing.TB, p *intelsim.Platform, version uint16, change func(*quote.Enclave)) json.RawMessage {
	t.Helper()
	e := p.Enclave()
	copy(e.ReportData[:], dcapReportData)
	e.ConfigID = sha512.Sum512(sgxDoc)
	if change != nil {
		change(&e)
	}
	raw, err := p.QuoteEnclave(&e, version)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&sgx.Evidence{Quote: raw, Simulation: "everything"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSGX(t *testing.T) {
	p := dcapMachine(t, intelsim.Options{Processor: true}) // the other CA, for once
	items := dcapItems(t, p, intelsim.CollateralOptions{})
	v, err := verifier.New(dcapConfig(p, items))
	if err != nil {
		t.Fatal(err)
	}
	good := sgxMake(t, p, 3, nil)
	launch := func(change func(*quote.Enclave)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) { t.Helper(); in.Evidence = sgxMake(t, p, 3, change) }
	}
	played := func(change func(*intelsim.Platform)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			t.Helper()
			q := *p
			change(&q)
			in.Evidence = sgxMake(t, &q, 3, nil)
		}
	}
	version := func(n uint16) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) { t.Helper(); in.Evidence = sgxMake(t, p, n, nil) }
	}
	Run(t, Suite{
		Verifier: v,
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: bytes.Clone(good), ReportData: dcapReportData, Initdata: sgxDoc, Now: dcapDay}
		},
		Fields: dcapThin(dcapFields(sgxCodec, 3, quote.EnclaveSize), 3),
		Cases: append(dcapCases(t, p, "sgx", sgxCodec, verifier.New),
			Case{Name: "another document", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = append(bytes.Clone(sgxDoc), '\n') }, Reason: verify.ReasonInitdataMismatch},
			Case{Name: "document withheld", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }, Reason: verify.ReasonInitdataMissing},
			Case{Name: "document not measured", Mutate: launch(func(e *quote.Enclave) { e.ConfigID = [64]byte{} }), Reason: verify.ReasonInitdataUnexpected},
			Case{Name: "document of another algorithm", Reason: verify.ReasonInitdataMalformed, Mutate: func(t testing.TB, in *verify.Input) {
				in.Initdata = tdxDoc
				in.Evidence = sgxMake(t, p, 3, func(e *quote.Enclave) { e.ConfigID = sha512.Sum512(tdxDoc) })
			}},
			Case{Name: "enclave with the provisioning key", Mutate: launch(func(e *quote.Enclave) { e.Flags[0] |= byte(quote.FlagProvision) }), Reason: verifier.ReasonAttributes},
			Case{Name: "enclave that was not started", Mutate: launch(func(e *quote.Enclave) { e.Flags[0] &^= byte(quote.FlagInit) }), Reason: verifier.ReasonAttributes},
			Case{Name: "QE of another signer", Mutate: played(func(p *intelsim.Platform) { p.QE.MRSigner[0] ^= 1 }), Reason: intel.ReasonQEIdentity},
			Case{Name: "QE of TDX", Mutate: played(func(p *intelsim.Platform) { p.QE = p.TDQE }), Reason: intel.ReasonQEIdentity},
			Case{Name: "QE in debug", Mutate: played(func(p *intelsim.Platform) { p.QE.Flags[0] |= byte(quote.FlagDebug) }), Reason: intel.ReasonQEIdentity},
			Case{Name: "QE with other MISCSELECT", Mutate: played(func(p *intelsim.Platform) { p.QE.MiscSelect[0] = 1 }), Reason: intel.ReasonQEIdentity},
			Case{Name: "old QE", Mutate: played(func(p *intelsim.Platform) { p.QE.ISVSVN[0]-- }), Reason: intel.ReasonTCBUnsupported},
			Case{Name: "quote v4", Mutate: version(4), Reason: verify.ReasonUnproven},
			Case{Name: "quote v5", Mutate: version(5), Reason: verify.ReasonUnproven},
			Case{Name: "a TD's quote", Reason: intel.ReasonQuoteType, Mutate: func(t testing.TB, in *verify.Input) {
				td := p.TD()
				raw, err := p.QuoteTD(&td, 4)
				if err != nil {
					t.Fatal(err)
				}
				if in.Evidence, err = sgxCodec.set(in.Evidence, raw); err != nil {
					t.Fatal(err)
				}
			}},
			Case{Name: "unknown member", Reason: verifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) {
				in.Evidence = append(bytes.TrimSuffix(in.Evidence, []byte("}")), `,"more":1}`...)
			}}),
	})
}

// Debug is a fact for who asks and for policies; it is never hidden.
func TestDebugShows(t *testing.T) {
	p := dcapMachine(t, intelsim.Options{})
	v, err := verifier.New(dcapConfig(p, dcapItems(t, p, intelsim.CollateralOptions{})))
	if err != nil {
		t.Fatal(err)
	}
	in := &verify.Input{Evidence: sgxMake(t, p, 3, func(e *quote.Enclave) { e.Flags[0] |= byte(quote.FlagDebug) }), ReportData: dcapReportData, Initdata: sgxDoc, Now: dcapDay}
	if r, err := v.Verify(in); err != nil || !r[0].Debug {
		t.Errorf("debug enclave: %v", err)
	}
}
