package mutations

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	azsim "github.com/cofferproject/coffer/tee/azure/sim"
	azverifier "github.com/cofferproject/coffer/tee/azure/verifier"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// runtimeTexts are what a guest recorded after its boot.
var runtimeTexts = []string{
	"example.org start {\"version\":1}",
	"example.org open a door",
	"github.com/confidential-containers PullImage {\"image\":\"a\"}",
}

// runtimeEvents are their events in a PCR.
func runtimeEvents(register uint32) []eventlog.Event {
	var out []eventlog.Event
	for _, s := range runtimeTexts {
		out = append(out, eventlog.NewAAEL(register, s, eventlog.SHA256))
	}
	return out
}

func runtimeLog(events []eventlog.Event) []byte {
	var b []byte
	for i := range events {
		b = events[i].Append(b)
	}
	return b
}

// runtimeCases bend the log of runtimeEvents in evidence of a TPM.
func runtimeCases(set func(log []byte) func(testing.TB, *verify.Input)) []Case {
	edit := func(f func([]eventlog.Event) []eventlog.Event) func(testing.TB, *verify.Input) {
		return set(runtimeLog(f(runtimeEvents(refvalue.PCREvents))))
	}
	return []Case{
		{Name: "run-time event dropped", Reason: quote.ReasonEventsMismatch, Mutate: edit(func(e []eventlog.Event) []eventlog.Event { return e[:2] })},
		{Name: "all run-time events dropped", Reason: quote.ReasonEventsMismatch, Mutate: set(nil)},
		{Name: "run-time event added", Reason: quote.ReasonEventsMismatch, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			return append(e, eventlog.NewAAEL(refvalue.PCREvents, "example.org more x", eventlog.SHA256))
		})},
		{Name: "run-time event twice", Reason: quote.ReasonEventsMismatch, Mutate: edit(func(e []eventlog.Event) []eventlog.Event { return append(e, e[2]) })},
		{Name: "run-time events in another order", Reason: quote.ReasonEventsMismatch, Mutate: edit(func(e []eventlog.Event) []eventlog.Event { slices.Reverse(e); return e })},
		{Name: "another run-time event", Reason: quote.ReasonEventsMismatch, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			e[1] = eventlog.NewAAEL(refvalue.PCREvents, "example.org shut the door", eventlog.SHA256)
			return e
		})},
		{Name: "another text under a run-time event's digest", Reason: quote.ReasonEventsMalformed, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			e[1].Data = eventlog.NewAAEL(refvalue.PCREvents, "example.org shut the door", eventlog.SHA256).Data
			return e
		})},
		{Name: "run-time log of another register", Reason: quote.ReasonEventsMalformed, Mutate: set(runtimeLog(runtimeEvents(13)))},
		{Name: "run-time event of another register among them", Reason: quote.ReasonEventsMalformed, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			return append(e, eventlog.NewAAEL(13, "example.org more x", eventlog.SHA256))
		})},
		{Name: "an event that is not the agent's", Reason: quote.ReasonEventsMalformed, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			return append(e, eventlog.NewEvent(refvalue.PCREvents, refvalue.IPL, []byte("x"), eventlog.SHA256))
		})},
		{Name: "an entry that extends nothing", Reason: quote.ReasonEventsMalformed, Mutate: edit(func(e []eventlog.Event) []eventlog.Event {
			x := eventlog.NewAAEL(refvalue.PCREvents, "example.org more x", eventlog.SHA256)
			x.Type = refvalue.NoAction
			return append(e, x)
		})},
		{Name: "run-time log cut", Reason: quote.ReasonEventsMalformed, Mutate: set(runtimeLog(runtimeEvents(refvalue.PCREvents))[:20])},
	}
}

// shown demands that the claims tell of the events.
func shown(t *testing.T, r *verify.Result) {
	t.Helper()
	events, ok := r.Claims["uefi_event_logs"].([]eventlog.Description)
	if !ok || len(events) != len(runtimeTexts) {
		t.Fatalf("claims %v", r.Claims["uefi_event_logs"])
	}
	if texts, ok := r.Claims[verify.ClaimRuntimeEvents].([]string); !ok || !slices.Equal(texts, runtimeTexts) {
		t.Errorf("texts %q", r.Claims[verify.ClaimRuntimeEvents])
	}
	for i, e := range events {
		if e.Details["string"] != runtimeTexts[i] || !e.DigestMatchesEvent || e.Index != refvalue.PCREvents {
			t.Errorf("event %d: %+v", i, e)
		}
	}
}

// TestAzureRuntimeEvents bends what a guest recorded below a paravisor.
func TestAzureRuntimeEvents(t *testing.T) {
	m := azuretest.SNPHardware()
	v, err := azverifier.NewSNP(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{m.Authority.Root()}}, azverifier.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rd := sha256.Sum256([]byte("session"))
	doc := azureDocument(t, initdata.SHA256, "mine")
	boot := func() *azuretest.Guest {
		sum := sha256.Sum256(doc)
		return azuretest.Boot(t, azsim.Options{SNP: m.Launch(t, snp.Policy(launch.DefaultSNPPolicy))}, &sum)
	}
	g := boot()
	register, index := g.Att.EventRegister()
	log, err := aael.Open(t.Context(), t.TempDir(), aael.Options{Extender: g.Att, FirstIndex: index - uint32(register), Own: []int{register}})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.Att.Record(log.Bytes)
	for _, text := range runtimeTexts {
		p := strings.SplitN(text, " ", 3)
		if err := log.Extend(t.Context(), aael.DefaultPCR, aael.Event{Domain: p[0], Operation: p[1], Content: p[2]}); err != nil {
			t.Fatal(err)
		}
	}
	good := &verify.Input{Evidence: g.Evidence(t, rd[:]), ReportData: rd[:], Initdata: doc, Now: time.Now()}
	unlogged := boot()
	if err := device.Extend(unlogged.VTPM, refvalue.PCREvents, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	field := azureField(azure.SNP, "aael", func(e *azure.Evidence) *[]byte { return &e.Entries })
	field.Every, field.Reasons = 3, azReasons(quote.ReasonEventsMalformed, quote.ReasonEventsMismatch)
	Run(t, Suite{
		Verifier: v,
		Good:     func(testing.TB) *verify.Input { in := *good; return &in },
		Fields:   []Field{field},
		Cases: append(runtimeCases(func(log []byte) func(testing.TB, *verify.Input) {
			return editAzure(azure.SNP, func(e *azure.Evidence) { e.Entries = log })
		}), []Case{
			{Name: "run-time register extended without a log", Reason: quote.ReasonEventsMismatch, Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = unlogged.Evidence(t, rd[:]) }},
			{Name: "run-time log without an extend", Reason: quote.ReasonEventsMismatch, Mutate: func(t testing.TB, in *verify.Input) {
				in.Evidence = boot().Evidence(t, rd[:])
				editAzure(azure.SNP, func(e *azure.Evidence) { e.Entries = runtimeLog(runtimeEvents(refvalue.PCREvents)) })(t, in)
			}},
			{Name: "run-time log too long", Reason: azverifier.ReasonMalformed, Mutate: func(_ testing.TB, in *verify.Input) {
				in.Evidence = append(in.Evidence[:len(in.Evidence)-1:len(in.Evidence)-1], `,"aael":"`+strings.Repeat("AAAA", azure.MaxEntries/3+1)+`"}`...)
			}},
		}...),
	})
	r, err := v.Verify(good)
	if err != nil {
		t.Fatal(err)
	}
	shown(t, r[0])
}
