package keyholder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// recorderTEE has one register, which outlives the process.
type recorderTEE struct {
	fakeTEE
	value   *[32]byte
	entries func() ([]byte, error)
}

func (r *recorderTEE) Hash() string { return "sha256" }
func (r *recorderTEE) Register(pcr int) (int, error) {
	if pcr != 15 && pcr != 17 {
		return 0, attest.ErrUnsupported
	}
	return 15, nil
}
func (r *recorderTEE) EventRegister() (int, uint32)          { return 15, 15 }
func (r *recorderTEE) Record(entries func() ([]byte, error)) { r.entries = entries }
func (r *recorderTEE) Read(context.Context, int) ([]byte, error) {
	return bytes.Clone(r.value[:]), nil
}
func (r *recorderTEE) Extend(_ context.Context, _ int, d []byte) error {
	*r.value = sha256.Sum256(append(bytes.Clone(r.value[:]), d...))
	return nil
}
func (r *recorderTEE) Evidence(_ context.Context, rd []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	e := map[string][]byte{"report_data": rd}
	if r.entries != nil {
		var err error
		if e["aael"], err = r.entries(); err != nil {
			return nil, err
		}
	}
	return json.Marshal(e)
}

func openRecorder(value *[32]byte) func() (Attester, error) {
	return func() (Attester, error) { return &recorderTEE{value: value}, nil }
}

// recordingDocument names a trustee and has more in aa.toml.
func recordingDocument(t *testing.T, url, ca, more string) []byte {
	t.Helper()
	aa := &initdata.AAConfig{}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: url, Cert: ca}
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	b, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text + more}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const enabled = "\n[eventlog_config]\nenable_eventlog = true\n"

func extendBy(a aapb.AttestationAgentServiceService, domain, content string, register ...uint64) (aapb.RuntimeMeasurementResult, error) {
	r := &aapb.ExtendRuntimeMeasurementRequest{Domain: domain, Operation: "op", Content: content}
	if len(register) > 0 {
		r.RegisterIndex = &register[0]
	}
	x, err := a.ExtendRuntimeMeasurement(context.Background(), r)
	return x.GetResult(), err
}

// logged gives the events of the evidence, once they explain the register.
func logged(t *testing.T, p *pod, value *[32]byte) []eventlog.Event {
	t.Helper()
	r, err := p.aa.GetEvidence(t.Context(), &aapb.GetEvidenceRequest{RuntimeData: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	var e map[string][]byte
	if err := json.Unmarshal(r.GetEvidence(), &e); err != nil {
		t.Fatal(err)
	}
	v, events, err := aael.Explain(e["aael"], 15, eventlog.SHA256)
	if err != nil || !bytes.Equal(v, value[:]) {
		t.Fatalf("the log gives %x, the register is %x: %v", v, *value, err)
	}
	return events
}

func TestEventsAreRecordedAndAttestedTo(t *testing.T) {
	k := simpleKBS(t)
	var value [32]byte
	dir := t.TempDir()
	doc := recordingDocument(t, k.URL, k.CAPEM(), enabled+"init_pcr = 17\neventlog_algorithm = \"sha256\"\n")
	p, end := runPodIn(t, doc, openRecorder(&value), dir)
	if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Fatal(err)
	}
	if n := len(logged(t, p, &value)); n != 0 {
		t.Errorf("%d events at the start", n)
	}
	for i, a := range []aapb.AttestationAgentServiceService{p.ev, p.aa} {
		if r, err := extendBy(a, "example.org", fmt.Sprint("event ", i)); err != nil || r != aapb.RuntimeMeasurementResult_OK {
			t.Fatalf("%v, %v", r, err)
		}
	}
	if r, err := extendBy(p.aa, GuestDomain, "{}", 15); err != nil || r != aapb.RuntimeMeasurementResult_OK {
		t.Errorf("the guest's own event in the register by its number: %v, %v", r, err)
	}
	if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
		t.Fatal(err)
	}
	if a, b, _ := k.Count(); a != 2 || b != 2 {
		t.Errorf("%d auths, %d attestations: a token from before an event was used", a, b)
	}
	end()
	p, _ = runPodIn(t, doc, openRecorder(&value), dir)
	if r, err := extendBy(p.ev, "example.org", "after a restart"); err != nil || r != aapb.RuntimeMeasurementResult_OK {
		t.Fatalf("%v, %v", r, err)
	}
	events := logged(t, p, &value)
	if len(events) != 4 || events[3].Text() != "example.org op after a restart" {
		t.Errorf("%d events", len(events))
	}
}

func TestEventsAreDenied(t *testing.T) {
	k := simpleKBS(t)
	var value [32]byte
	p := runPod(t, recordingDocument(t, k.URL, k.CAPEM(), enabled), openRecorder(&value))
	for name, c := range map[string]struct {
		domain, content string
		code            codes.Code
		reason          string
	}{
		"no domain":          {"", "x", codes.InvalidArgument, string(ReasonEventMalformed)},
		"line break":         {"example.org", "a\nb", codes.InvalidArgument, string(ReasonEventMalformed)},
		"space":              {"example org", "x", codes.InvalidArgument, string(ReasonEventMalformed)},
		"the guest's domain": {GuestDomain, "x", codes.PermissionDenied, string(ReasonEventReserved)},
		"too large":          {"example.org", strings.Repeat("x", maxEventCost), codes.ResourceExhausted, string(ReasonEventLogFull)},
	} {
		if _, err := extendBy(p.ev, c.domain, c.content); status.Code(err) != c.code || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := extendBy(p.ev, "example.org", "x", 11); err != nil || r != aapb.RuntimeMeasurementResult_NOT_SUPPORTED {
		t.Errorf("PCR 11: %v, %v", r, err)
	}
	if r, err := extendBy(p.ev, "example.org", "x", 1<<40); err != nil || r != aapb.RuntimeMeasurementResult_NOT_SUPPORTED {
		t.Errorf("no register: %v, %v", r, err)
	}
	if value != [32]byte{} {
		t.Error("a denied event was extended")
	}
	// This socket has nothing else.
	if _, err := p.ev.GetToken(t.Context(), &aapb.GetTokenRequest{TokenType: "kbs"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("token: %v", err)
	}
	if _, err := p.ev.GetEvidence(t.Context(), &aapb.GetEvidenceRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("evidence: %v", err)
	}
}

// Workloads can neither fill the log nor keep the TEE busy, and what they leave
// is the guest's.
func TestEventsAreBounded(t *testing.T) {
	var value [32]byte
	now := time.Unix(1_800_000_000, 0)
	start := func(dir string) *events {
		t.Helper()
		pcr := 15
		e, err := newEvents(&initdata.AAConfig{EventlogConfig: &initdata.AAEventlog{EnableEventlog: true, InitPCR: &pcr}}, dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		e.now = func() time.Time { return now }
		if err := e.open(t.Context(), &recorderTEE{value: &value}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.close() })
		return e
	}
	dir := t.TempDir()
	e := start(dir)
	add := func(from caller, content string) string {
		_, err := e.extend(t.Context(), from, aael.Event{Domain: "example.org", Operation: "op", Content: content}, nil)
		if err != nil {
			return err.Error()
		}
		return ""
	}
	n := 0
	for ; add(callerWorkload, "x") == ""; n++ {
	}
	if got := add(callerWorkload, "x"); n != eventBurst || !strings.Contains(got, string(ReasonEventRate)) {
		t.Errorf("%d events at once, then %q", n, got)
	}
	now = now.Add(eventInterval)
	if first, second := add(callerWorkload, "x"), add(callerWorkload, "x"); first != "" || !strings.Contains(second, string(ReasonEventRate)) {
		t.Errorf("one interval later: %q, %q", first, second)
	}
	n++
	for ; ; n++ {
		now = now.Add(eventInterval)
		if got := add(callerWorkload, "x"); got != "" {
			if !strings.Contains(got, string(ReasonEventLogFull)) {
				t.Errorf("refused with %q", got)
			}
			break
		}
	}
	if n != maxEvents-guestEvents {
		t.Errorf("a workload recorded %d events", n)
	}
	// What was recorded counts after a restart too.
	_ = e.close()
	e = start(dir)
	if got := add(callerWorkload, "x"); !strings.Contains(got, string(ReasonEventLogFull)) {
		t.Errorf("after a restart: %q", got)
	}
	for i := range guestEvents {
		if got := add(callerGuest, "x"); got != "" {
			t.Fatalf("the guest's event %d: %q", i, got)
		}
	}
	if got := add(callerGuest, "x"); !strings.Contains(got, string(ReasonEventLogFull)) {
		t.Errorf("one more: %q", got)
	}
	// Text that grows in JSON is counted as it will be.
	value = [32]byte{}
	e = start(t.TempDir())
	if got := add(callerWorkload, strings.Repeat("<", maxEventCost/6)); !strings.Contains(got, string(ReasonEventLogFull)) {
		t.Errorf("%q", got)
	}
}

func TestEventsWithoutARegister(t *testing.T) {
	k := simpleKBS(t)
	var value [32]byte
	for name, c := range map[string]struct {
		open func() (Attester, error)
		more string
	}{
		"a TEE without":     {openFake, enabled},
		"another PCR":       {openRecorder(&value), enabled + "init_pcr = 8\n"},
		"another algorithm": {openRecorder(&value), enabled + "eventlog_algorithm = \"sha384\"\n"},
	} {
		p := runPod(t, recordingDocument(t, k.URL, k.CAPEM(), c.more), c.open)
		if r, err := extendBy(p.ev, "example.org", "x"); err != nil || r != aapb.RuntimeMeasurementResult_NOT_SUPPORTED {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		if _, err := p.get(t, "kbs:///default/secret/1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := runPod(t, recordingDocument(t, k.URL, k.CAPEM(), "\n[eventlog_config]\nenable_eventlog = false\n"), openRecorder(&value))
	if r, err := extendBy(p.ev, "example.org", "x"); err != nil || r != aapb.RuntimeMeasurementResult_NOT_ENABLED {
		t.Errorf("not enabled: %v, %v", r, err)
	}
	for _, more := range []string{enabled + "init_pcr = 24\n", enabled + "init_pcr = -1\n", enabled + "eventlog_algorithm = \"md5\"\n", enabled + "more = 1\n"} {
		if _, err := New(Config{Initdata: recordingDocument(t, k.URL, k.CAPEM(), more), OpenAttester: openFake, Floor: floor, Logger: slog.Default()}); err == nil {
			t.Errorf("%q was taken", more)
		}
	}
	doc := recordingDocument(t, k.URL, k.CAPEM(), enabled)
	if _, err := New(Config{Initdata: doc, OpenAttester: openFake, Floor: floor, Logger: slog.Default(), EventsElsewhere: true}); err == nil {
		t.Error("a second process would record")
	}
}

// A log that does not explain the register, such as one that was deleted, ends
// attestation: nothing could be proven with it.
func TestLostEventLog(t *testing.T) {
	k := simpleKBS(t)
	var value [32]byte
	dir := t.TempDir()
	doc := recordingDocument(t, k.URL, k.CAPEM(), enabled)
	p, end := runPodIn(t, doc, openRecorder(&value), dir)
	if _, err := extendBy(p.ev, "example.org", "x"); err != nil {
		t.Fatal(err)
	}
	end()
	if err := os.Remove(filepath.Join(dir, "eventlog")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	p, _ = runPodIn(t, doc, openRecorder(&value), dir)
	if _, err := p.get(t, "kbs:///default/secret/1"); err == nil {
		t.Error("attested with a register that nothing explains")
	}
	if _, err := extendBy(p.ev, "example.org", "x"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("recorded on: %v", err)
	}
}
