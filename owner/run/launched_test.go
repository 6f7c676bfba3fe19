package run

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/measure"
)

// nitro is the cheapest launch to measure: any files will do.
func nitro(t *testing.T, cmdline string) *launch.Spec {
	t.Helper()
	s := &launch.Spec{TEE: launch.NitroSim, Cmdline: cmdline, VCPUs: 2, MemoryMiB: 512}
	for name, f := range map[string]*launch.File{"kernel": &s.Kernel, "initrd": &s.Initrd} {
		f.Path = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(f.Path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// records gives what a trustee has of a launch that it refused.
func records(t *testing.T, expected, happened *launch.Spec) *trusteeapi.Record {
	t.Helper()
	want, err := measure.Launch(expected)
	if err != nil {
		t.Fatal(err)
	}
	got, err := measure.Launch(happened)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[string]any{}
	for _, r := range got.Rows {
		pcrs[r.Field] = r.Value
	}
	return &trusteeapi.Record{
		Claims: map[string]any{"evidence": map[string]any{"nitro": map[string]any{"pcrs": pcrs}}},
		Appraisals: []trusteeapi.Appraisal{{
			Submod: "cpu0", TEE: "nitro", Findings: []trusteeapi.Finding{{Field: "nitro.pcrs.pcr0", Reference: "nitro_pcr0"}},
			References: []trusteeapi.Reference{{Bundle: "values", Launch: want.Launch, Values: want.Values}},
		}},
	}
}

func TestTheChangedInputIsNamed(t *testing.T) {
	asked, evil := nitro(t, "quiet"), nitro(t, "quiet evil=1")
	att := records(t, asked, evil)
	l := &launched{asked: asked, said: evil}
	e := answered(l.question(att, &att.Appraisals[0]))
	if e == nil || len(e.Differences) != 1 || e.Differences[0].Input != measure.Cmdline {
		t.Fatalf("%+v", e)
	}
	text := (&Denied{Denial: &denial.Denial{Reason: "status-unacceptable", Component: "kbs"}, Launch: e}).Error()
	for _, want := range []string{"denied: status-unacceptable", "differs", "evil=1 was added", "the launcher says"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
	// What was refused is nothing that a launch decides.
	att.Appraisals[0].Findings[0].Reference = "nitro_max_age"
	if q := l.question(att, &att.Appraisals[0]); q != nil {
		t.Errorf("%+v", q)
	}
	// The record had no room for claims.
	att = records(t, asked, evil)
	att.Claims = map[string]any{"omitted": "too long"}
	if q := l.question(att, &att.Appraisals[0]); q != nil {
		t.Errorf("%+v", q)
	}
}

// The launcher names files; one that never ends must end nothing.
func TestTheLaunchersFilesAreHandledWithCare(t *testing.T) {
	asked, evil := nitro(t, "quiet"), nitro(t, "quiet evil=1")
	att := records(t, asked, evil)
	fifo := filepath.Join(t.TempDir(), "kernel")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	evil.Kernel.Path = fifo
	l := &launched{asked: asked, said: evil}
	start := time.Now()
	e := answered(l.question(att, &att.Appraisals[0]))
	if e == nil || len(e.Differences) > 0 || len(e.Unexplained) != 2 || !strings.Contains(strings.Join(e.Notes, " "), "no plain file") || time.Since(start) > explainTime/2 {
		t.Errorf("%+v after %s", e, time.Since(start))
	}
}

func TestAnotherDocument(t *testing.T) {
	l := &launched{initdata: "sha256:aa"}
	r := &trusteeapi.Record{Initdata: "sha256:bb", Denial: &denial.Denial{Measured: "sha256:bb"}}
	if e := l.otherInitdata(r); e == nil || len(e.Differences) != 1 || e.Differences[0].Input != measure.Initdata || e.Differences[0].Expected != "sha256:aa" || e.Differences[0].Launched != "sha256:bb" {
		t.Errorf("%+v", e)
	}
	// The document is right and the secret is another pod's.
	r.Initdata, r.Denial.Measured = "sha256:aa", "sha256:aa"
	if e := l.otherInitdata(r); e == nil || len(e.Differences) > 0 || !strings.Contains(e.Notes[0], "bound to another pod") {
		t.Errorf("%+v", e)
	}
	r.Denial.Measured = "a launch digest"
	if e := l.otherInitdata(r); e != nil {
		t.Errorf("%+v", e)
	}
}
