package mutations

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/nitro/attester"
	"github.com/cofferproject/coffer/tee/nitro/cbor"
	"github.com/cofferproject/coffer/tee/nitro/sim"
	nitroverifier "github.com/cofferproject/coffer/tee/nitro/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

const nitroNote = "simulated"

// nitroField is the document in the evidence.
func nitroField(name string, from, to, every int) Field {
	return Field{
		Name: name, From: from, To: to, Every: every,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := nitro.Parse(b)
			if err != nil {
				return nil, err
			}
			return e.Document, nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := nitro.Parse(b)
			if err != nil {
				return nil, err
			}
			e.Document = v
			return json.Marshal(e)
		},
	}
}

func TestNitro(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	data := slices.Repeat([]byte{0x77}, 48)
	doc := []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = \"x\"\n")
	key, root, err := sim.NewRoot(now)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := sim.NewRoot(now)
	if err != nil {
		t.Fatal(err)
	}
	launch := func(at time.Time) *sim.Enclave {
		e, err := sim.Launch(key, root, &sim.Inputs{Kernel: []byte("k"), Initrd: []byte("i"), Cmdline: "c"}, func() time.Time { return at })
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	evidence := func(document []byte) json.RawMessage {
		b, err := json.Marshal(&nitro.Evidence{Document: document, Simulation: nitroNote})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// start plays the guest's init.
	start := func(e *sim.Enclave, initdata []byte) json.RawMessage {
		a, err := attester.New(t.Context(), e, nitroNote)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha512.Sum384(initdata)
		if err := a.Extend(t.Context(), nitro.PCRInitdata, sum[:]); err != nil {
			t.Fatal(err)
		}
		b, err := a.Evidence(t.Context(), data, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := func(kind verify.Kind, allow []string, roots ...*x509.Certificate) verify.Verifier {
		v, err := nitroverifier.New(verify.Config{Kind: kind, SimulatedRoots: roots, AllowUnproven: allow})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	allow := []string{nitroverifier.UnprovenEnclave}
	good := start(launch(now), doc)
	e, err := nitro.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	size := len(e.Document)

	// resigned changes the payload and signs it with a key of nobody's.
	resigned := func(change func(cbor.Map) cbor.Map) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			e, err := nitro.Parse(in.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			v, err := cbor.Decode(e.Document)
			if err != nil {
				t.Fatal(err)
			}
			parts, _ := v.([]any)
			raw, _ := parts[2].([]byte)
			if v, err = cbor.Decode(raw); err != nil {
				t.Fatal(err)
			}
			m, _ := v.(cbor.Map)
			if raw, err = cbor.Encode(change(m)); err != nil {
				t.Fatal(err)
			}
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			d, err := sim.Sign(k, raw)
			if err != nil {
				t.Fatal(err)
			}
			in.Evidence = evidence(d)
		}
	}
	member := func(name string, change func(v any) any) func(cbor.Map) cbor.Map {
		return func(m cbor.Map) cbor.Map {
			for i := range m {
				if m[i].Key == name {
					m[i].Value = change(m[i].Value)
				}
			}
			return m
		}
	}
	from := func(b json.RawMessage) func(testing.TB, *verify.Input) {
		return func(_ testing.TB, in *verify.Input) { in.Evidence = b }
	}
	unlocked, err := launch(now).Document(append(bytes.Clone(data), make([]byte, 16)...), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	short, err := launch(now).Document(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	nothing, err := launch(now).Document(nil, data, nil)
	if err != nil {
		t.Fatal(err)
	}

	Run(t, Suite{
		Verifier: config(verify.InsecureSimulated, allow, root),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: good, ReportData: data, Initdata: doc, Now: now}
		},
		Fields: []Field{
			nitroField("document", 0, size-96, 7),
			func() Field {
				f := nitroField("signature", size-96, size, 1)
				f.Reasons = append(f.Reasons, nitroverifier.ReasonSignature)
				return f
			}(),
		},
		Cases: []Case{
			{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 48) }, Reason: verify.ReasonReportData},
			{Name: "user data of 48 bytes", Mutate: from(evidence(short)), Reason: verify.ReasonReportData},
			{Name: "report data as the nonce", Mutate: from(evidence(nothing)), Reason: verify.ReasonReportData},
			{Name: "another initdata", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = append(bytes.Clone(doc), ' ') }, Reason: verify.ReasonInitdataMismatch},
			{Name: "initdata withheld", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }, Reason: verify.ReasonInitdataMissing},
			{Name: "register not locked", Mutate: from(evidence(unlocked)), Reason: verify.ReasonInitdataMismatch},
			{Name: "initdata of another algorithm", Mutate: func(_ testing.TB, in *verify.Input) {
				in.Initdata = bytes.Replace(doc, []byte("sha384"), []byte("sha256"), 1)
				in.Evidence = start(launch(now), in.Initdata)
			}, Reason: verify.ReasonInitdataMalformed},
			{Name: "signed by nobody", Mutate: resigned(func(m cbor.Map) cbor.Map { return m }), Reason: nitroverifier.ReasonSignature},
			{Name: "another PCR 0", Mutate: resigned(member("pcrs", func(v any) any {
				m, _ := v.(cbor.Map)
				m[0].Value = make([]byte, nitro.PCRSize)
				return m
			})), Reason: nitroverifier.ReasonSignature},
			{Name: "another digest", Mutate: resigned(member("digest", func(any) any { return "SHA256" })), Reason: nitroverifier.ReasonDocumentMalformed},
			{Name: "no chain", Mutate: resigned(member("cabundle", func(v any) any { l, _ := v.([]any); return l[:1] })), Reason: nitroverifier.ReasonChainUntrusted},
			{Name: "chain in another order", Mutate: resigned(member("cabundle", func(v any) any {
				l, _ := v.([]any)
				return []any{l[0], l[2], l[1], l[3]}
			})), Reason: nitroverifier.ReasonChainUntrusted},
			{Name: "another root in the chain", Mutate: resigned(member("cabundle", func(v any) any {
				l, _ := v.([]any)
				return append([]any{stranger.Raw}, l[1:]...)
			})), Reason: nitroverifier.ReasonChainUntrusted},
			{Name: "four hours later", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = now.Add(4 * time.Hour) }, Reason: nitroverifier.ReasonChainExpired},
			{Name: "before its time", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = now.Add(-time.Hour) }, Reason: nitroverifier.ReasonChainExpired},
			{Name: "another machine", Verifier: config(verify.InsecureSimulated, allow, stranger), Reason: nitroverifier.ReasonChainUntrusted},
			{Name: "not allowed", Verifier: config(verify.InsecureSimulated, nil, root), Reason: verify.ReasonUnproven},
			{Name: "in production", Verifier: config(verify.Production, allow), Reason: verify.ReasonSimulated},
			{Name: "in production without the note", Mutate: func(t testing.TB, in *verify.Input) {
				var err error
				if in.Evidence, err = json.Marshal(&nitro.Evidence{Document: e.Document}); err != nil {
					t.Fatal(err)
				}
			}, Verifier: config(verify.Production, allow), Reason: nitroverifier.ReasonChainUntrusted},
			{Name: "without the note", Mutate: func(t testing.TB, in *verify.Input) {
				var err error
				if in.Evidence, err = json.Marshal(&nitro.Evidence{Document: e.Document}); err != nil {
					t.Fatal(err)
				}
			}, Reason: verify.ReasonNotSimulated},
		},
	})
}
