package mutations

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/verify"
)

// What SGX and TDX share: quotes, PCK chains, collateral.

var (
	dcapDay        = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	dcapReportData = []byte("0123456789abcdef0123456789abcdef0123456789abcdef")
)

// dcapReasons is what a flip may be denied with, part by part.
var (
	dcapPCK  = []denial.Reason{intel.ReasonPCKMalformed, intel.ReasonPCKUntrusted, intel.ReasonPCKExpired, verify.ReasonCollateralMissing}
	dcapHead = []denial.Reason{intel.ReasonQuoteMalformed, intel.ReasonQuoteType, intel.ReasonQuoteSignature, verify.ReasonUnproven}
)

// dcapCodec reads the quote out of evidence and puts another in its place.
type dcapCodec struct {
	get func(json.RawMessage) ([]byte, error)
	set func(json.RawMessage, []byte) (json.RawMessage, error)
}

// dcapMachine makes a machine that was provisioned on dcapDay.
func dcapMachine(t testing.TB, o intelsim.Options) *intelsim.Platform {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = dcapDay
	}
	p, err := intelsim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func dcapItems(t testing.TB, p *intelsim.Platform, o intelsim.CollateralOptions) []*collateral.Item {
	t.Helper()
	items, err := p.Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func dcapConfig(p *intelsim.Platform, items []*collateral.Item) verify.Config {
	return verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(items...)}
}

// dcapThin takes each n-th byte only: another version of what is flipped in full
// elsewhere.
func dcapThin(fields []Field, n int) []Field {
	for i := range fields {
		if fields[i].To == 0 || fields[i].To-fields[i].From > 64 {
			fields[i].Every = n
		}
	}
	return fields
}

// dcapFields flips every byte of a quote, certificates in their binary form.
func dcapFields(c dcapCodec, version int, body int) []Field {
	part := func(name string, from, size int, reasons ...denial.Reason) Field {
		return Field{Name: name, Get: c.get, Set: c.set, From: from, To: from + size, Reasons: reasons}
	}
	signed := quote.HeaderSize + body
	if version == 5 {
		signed += 6
	}
	at := signed + 4
	out := []Field{
		part("header", 0, quote.HeaderSize, dcapHead...),
		part("body", quote.HeaderSize, signed-quote.HeaderSize, intel.ReasonQuoteSignature, intel.ReasonQuoteMalformed, verify.ReasonUnproven, intel.ReasonModuleMismatch),
		part("signature data size", signed, 4, intel.ReasonQuoteMalformed),
		part("quote signature", at, quote.SignatureSize, intel.ReasonQuoteSignature),
		part("attestation key", at+64, quote.PublicKeySize, intel.ReasonQEKey),
	}
	at += 128
	if version > 3 {
		out = append(out, part("certification data head", at, 6, intel.ReasonQuoteMalformed))
		at += 6
	}
	auth := at + quote.EnclaveSize + quote.SignatureSize
	return append(out,
		part("QE report", at, quote.EnclaveSize, intel.ReasonQEReport),
		part("QE report signature", at+quote.EnclaveSize, quote.SignatureSize, intel.ReasonQEReport),
		part("QE authentication data size", auth, 2, intel.ReasonQuoteMalformed),
		part("QE authentication data", auth+2, 32, intel.ReasonQEKey),
		part("PCK data head", auth+34, 6, intel.ReasonQuoteMalformed, intel.ReasonPCKMalformed),
		dcapCertificate(c, "PCK certificate", 0), dcapCertificate(c, "PCK CA", 1), dcapCertificate(c, "root", 2))
}

// dcapCertificate is one certificate of the quote's chain, DER.
func dcapCertificate(c dcapCodec, name string, n int) Field {
	blocks := func(e json.RawMessage) (*quote.Quote, [][]byte, error) {
		raw, err := c.get(e)
		if err != nil {
			return nil, nil, err
		}
		q, err := quote.Parse(raw)
		if err != nil {
			return nil, nil, err
		}
		var out [][]byte
		for b, rest := pem.Decode(q.CertData); b != nil; b, rest = pem.Decode(rest) {
			out = append(out, b.Bytes)
		}
		return q, out, nil
	}
	return Field{
		Name: name, Reasons: dcapPCK,
		Get: func(e json.RawMessage) ([]byte, error) {
			_, b, err := blocks(e)
			if err != nil {
				return nil, err
			}
			return b[n], nil
		},
		Set: func(e json.RawMessage, der []byte) (json.RawMessage, error) {
			q, b, err := blocks(e)
			if err != nil {
				return nil, err
			}
			b[n] = der
			q.CertData = nil
			for _, der := range b {
				q.CertData = append(q.CertData, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
			}
			return c.set(e, q.Bytes())
		},
	}
}

// dcapBend changes the quote inside evidence.
func dcapBend(c dcapCodec, f func(*quote.Quote)) func(testing.TB, *verify.Input) {
	return func(t testing.TB, in *verify.Input) {
		t.Helper()
		raw, err := c.get(in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		q, err := quote.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		f(q)
		if in.Evidence, err = c.set(in.Evidence, q.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
}

// dcapCases bend chain, collateral and time of a machine's good evidence. tee is
// "sgx" or "tdx", as in the origins.
func dcapCases(t *testing.T, p *intelsim.Platform, tee string, c dcapCodec, make func(verify.Config) (verify.Verifier, error)) []Case {
	t.Helper()
	with := func(cfg verify.Config) verify.Verifier {
		v, err := make(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	published := func(o intelsim.CollateralOptions) verify.Verifier { return with(dcapConfig(p, dcapItems(t, p, o))) }
	items := dcapItems(t, p, intelsim.CollateralOptions{})
	other := dcapMachine(t, intelsim.Options{})
	foreign := dcapItems(t, other, intelsim.CollateralOptions{})
	good := with(dcapConfig(p, items))
	out := []Case{
		{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = bytes.Repeat([]byte{1}, 48) }, Reason: verify.ReasonReportData},
		{Name: "in a production namespace", Verifier: with(verify.Config{Kind: verify.Production}), Reason: verify.ReasonSimulated},
		{Name: "another machine's root is trusted", Verifier: with(dcapConfig(other, items)), Reason: intel.ReasonPCKUntrusted},
		{Name: "no collateral", Verifier: with(dcapConfig(p, nil)), Reason: verify.ReasonCollateralMissing},
		{Name: "PCK revoked", Verifier: published(intelsim.CollateralOptions{RevokePCK: true}), Reason: intel.ReasonPCKRevoked},
		{Name: "PCK CA revoked", Verifier: published(intelsim.CollateralOptions{RevokeCA: true}), Reason: intel.ReasonPCKRevoked},
		{Name: "TCB signer revoked", Verifier: published(intelsim.CollateralOptions{RevokeSigner: true}), Reason: intel.ReasonSignerRevoked},
		{Name: "list with an unknown critical extension", Verifier: published(intelsim.CollateralOptions{List: criticalList}), Reason: verify.ReasonCollateralUnsupported},
		{Name: "list with an unknown critical entry extension", Verifier: published(intelsim.CollateralOptions{RevokeSigner: true, List: criticalEntry}), Reason: verify.ReasonCollateralUnsupported},
		{Name: "indirect list", Verifier: published(intelsim.CollateralOptions{List: indirectList}), Reason: verify.ReasonCollateralUnsupported},
		{Name: "old TCB", Verifier: published(intelsim.CollateralOptions{AboveMachine: true}), Reason: intel.ReasonTCBUnsupported},
		{Name: "TCB level revoked", Verifier: published(intelsim.CollateralOptions{Platform: intel.StatusRevoked}), Reason: intel.ReasonTCBRevoked},
		{Name: "QE revoked", Verifier: published(intelsim.CollateralOptions{QE: intel.StatusRevoked}), Reason: intel.ReasonTCBRevoked},
		{Name: "unknown TCB status", Verifier: published(intelsim.CollateralOptions{Platform: "Fine"}), Reason: verify.ReasonCollateralMalformed},
		{Name: "collateral expired", Verifier: published(intelsim.CollateralOptions{Life: time.Minute, Now: dcapDay.Add(-time.Hour)}), Reason: verify.ReasonCollateralExpired},
		{Name: "collateral from tomorrow", Verifier: published(intelsim.CollateralOptions{Now: dcapDay.AddDate(0, 0, 1)}), Reason: intel.ReasonCollateralFuture},
		{Name: "certificates expired", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = dcapDay.AddDate(20, 0, 0) }, Reason: intel.ReasonPCKExpired},
		{Name: "certificates from tomorrow", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = dcapDay.AddDate(0, 0, -1) }, Reason: intel.ReasonPCKExpired},
		{Name: "no simulation note", Mutate: dcapNoNote, Reason: verify.ReasonNotSimulated},
		{Name: "chain with leaf and CA exchanged", Verifier: good, Reason: intel.ReasonPCKUntrusted, Mutate: dcapBend(c, func(q *quote.Quote) {
			leaf, rest := pem.Decode(q.CertData)
			ca, root := pem.Decode(rest)
			q.CertData = append(append(pem.EncodeToMemory(ca), pem.EncodeToMemory(leaf)...), root...)
		})},
		{Name: "chain without root", Reason: intel.ReasonPCKMalformed, Mutate: dcapBend(c, func(q *quote.Quote) {
			q.CertData = q.CertData[:bytes.LastIndex(q.CertData, []byte("-----BEGIN"))]
		})},
		{Name: "chain with a fourth certificate", Reason: intel.ReasonPCKMalformed, Mutate: dcapBend(c, func(q *quote.Quote) {
			leaf, _ := pem.Decode(q.CertData)
			q.CertData = append(bytes.Clone(q.CertData), pem.EncodeToMemory(leaf)...)
		})},
		{Name: "text between certificates", Reason: intel.ReasonPCKMalformed, Mutate: dcapBend(c, func(q *quote.Quote) {
			q.CertData = append([]byte("text\n"), q.CertData...)
		})},
		{Name: "PCK by reference", Reason: intel.ReasonPCKMalformed, Mutate: dcapBend(c, func(q *quote.Quote) { q.CertType = 1 })},
		{Name: "data behind the quote", Reason: intel.ReasonQuoteMalformed, Mutate: func(t testing.TB, in *verify.Input) {
			raw, err := c.get(in.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			if in.Evidence, err = c.set(in.Evidence, append(raw, 0, 1)); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for i, it := range items { // each in turn is missing, unreadable, another machine's
		if !dcapNeeds(it.Origin, tee) {
			continue
		}
		swap := func(by *collateral.Item) verify.Verifier {
			list := append([]*collateral.Item(nil), items...)
			list[i] = by
			return with(dcapConfig(p, list))
		}
		bad, alien := *it, *foreign[i]
		bad.Body, alien.Origin = it.Body[:len(it.Body)-1], it.Origin
		out = append(out,
			Case{Name: "missing " + it.Origin, Verifier: swap(&collateral.Item{Origin: "https://elsewhere.invalid/"}), Reason: verify.ReasonCollateralMissing},
			Case{Name: "cut " + it.Origin, Verifier: swap(&bad), Reason: verify.ReasonCollateralMalformed},
			Case{Name: "another machine's " + it.Origin, Verifier: swap(&alien), Reason: verify.ReasonCollateralUntrusted})
		if !bytes.Contains(it.Body, []byte(`"signature"`)) {
			continue
		}
		bent := *it
		bent.Body = bytes.Replace(it.Body, []byte(`"tcbEvaluationDataNumber":1`), []byte(`"tcbEvaluationDataNumber":2`), 1)
		unchained := *it
		unchained.Chain = nil
		out = append(out,
			Case{Name: "bent " + it.Origin, Verifier: swap(&bent), Reason: verify.ReasonCollateralUntrusted},
			Case{Name: "without its chain " + it.Origin, Verifier: swap(&unchained), Reason: verify.ReasonCollateralUntrusted})
	}
	return out
}

func dcapNeeds(origin, tee string) bool {
	signed := bytes.Contains([]byte(origin), []byte("/tcb?")) || bytes.HasSuffix([]byte(origin), []byte("/qe/identity"))
	return !signed || bytes.Contains([]byte(origin), []byte("/"+tee+"/"))
}

// dcapNoNote removes the simulation note.
func dcapNoNote(t testing.TB, in *verify.Input) {
	t.Helper()
	var m map[string]json.RawMessage
	err := json.Unmarshal(in.Evidence, &m)
	if err == nil {
		delete(m, "simulation")
		in.Evidence, err = json.Marshal(m)
	}
	if err != nil {
		t.Fatal(err)
	}
}
