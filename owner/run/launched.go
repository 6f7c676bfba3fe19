package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// explainTime bounds the computing: who was refused waits for it, and the files
// that the launcher names are not ours.
const (
	explainTime = 15 * time.Second
	// explainGrace is for the launch that is being computed when time is up.
	explainGrace = 5 * time.Second
	maxLaunched  = 512 << 20 // bytes of all files of a launch
)

// launched is what is known of a launch on this side of the launcher.
type launched struct {
	asked    *launch.Spec       // what was asked for; nil: not known
	said     *launch.Spec       // what the launcher says that it launched; nil: nothing
	initdata string             // "sha256:<hex>" of the document that was asked for
	platform *platform.Platform // nil: no files are at hand
}

// ExplainRecord says which input of a launch is behind a decision of the trustee,
// long after it: of the launch nobody says anything any more, so it is looked for
// among the reference values' and what the usual platform has. nil where nothing
// that a launch decides was refused.
func ExplainRecord(ctx context.Context, c *trusteeclient.Client, rec *trusteeapi.Record) *measure.Explanation {
	pf, err := platform.Load(DefaultPlatform())
	if err != nil {
		pf = nil // less is explained without it
	}
	l := &launched{platform: pf}
	if len(rec.Appraisals) > 0 {
		return l.explainAttestation(rec)
	}
	return l.explain(ctx, c, rec)
}

// explain says which input of the launch is behind a refusal, if one is: rec is
// the refusal's record. The trustee has judged by what the hardware measured; this
// computes what explains it.
func (l *launched) explain(ctx context.Context, c *trusteeclient.Client, rec *trusteeapi.Record) *measure.Explanation {
	if out := l.otherInitdata(rec); out != nil || rec.Attestation == "" {
		return out
	}
	att, err := c.Attestation(ctx, rec.Attestation)
	if err != nil {
		return nil // it is too long ago; the refusal stands as it is
	}
	return l.explainAttestation(att)
}

func (l *launched) explainAttestation(att *trusteeapi.Record) *measure.Explanation {
	for i := range att.Appraisals {
		a := &att.Appraisals[i]
		q := l.question(att, a)
		if q == nil {
			continue
		}
		e := answered(q)
		if e != nil && a.ReferencesOmitted > 0 {
			e.Notes = append(e.Notes, fmt.Sprintf("%d more reference values of launches were not looked at: the record had no room for them", a.ReferencesOmitted))
		}
		return e
	}
	return nil
}

// otherInitdata explains refusals of a document that is not this launch's.
func (l *launched) otherInitdata(rec *trusteeapi.Record) *measure.Explanation {
	switch {
	case l.initdata == "":
		return nil
	case rec.Initdata != "" && rec.Initdata != l.initdata:
		return &measure.Explanation{
			Differences: []measure.Difference{{Input: measure.Initdata, Expected: l.initdata, Launched: rec.Initdata, Fields: []string{"init_data"}}},
			Notes:       []string{"the hardware's register has the digest of the document that the guest was given, which is not the one of this launch"},
		}
	case rec.Initdata != "" && rec.Denial.Measured == rec.Initdata:
		return &measure.Explanation{Notes: []string{"the initdata is that of this launch: the secret is bound to another pod or an earlier seal (coffer secret put --for)"}}
	}
	return nil
}

// question is nil where nothing that a launch decides was refused.
func (l *launched) question(att *trusteeapi.Record, a *trusteeapi.Appraisal) *measure.Question {
	refused := false
	for _, f := range a.Findings {
		refused = refused || measure.LaunchValue(a.TEE, f.Reference)
	}
	evidence, ok := att.Claims["evidence"].(map[string]any)
	if !ok { // of several devices
		evidence, _ = att.Claims["evidence "+a.Submod].(map[string]any)
	}
	claims, _ := evidence[a.TEE].(map[string]any)
	if !refused || claims == nil {
		return nil
	}
	q := &measure.Question{TEE: a.TEE, Claims: claims, Platform: l.platform, Programs: processPrograms(a.TEE)}
	for _, r := range a.References {
		q.References = append(q.References, measure.Reference(r))
	}
	if l.asked != nil {
		q.Candidates = append(q.Candidates, measure.Candidate{Spec: l.asked, Source: "it is what coffer run has asked for"})
	}
	if l.said != nil {
		q.Candidates = append(q.Candidates, measure.Candidate{Spec: l.said, Source: "it is what the launcher says it has launched instead"})
	}
	return q
}

// answered computes, for so long and no longer.
func answered(q *measure.Question) *measure.Explanation {
	ctx, cancel := context.WithTimeout(context.Background(), explainTime)
	defer cancel()
	late := time.NewTimer(explainTime + explainGrace)
	defer late.Stop()
	done := make(chan *measure.Explanation, 1)
	go func() {
		var notes []string
		keep := q.Candidates[:0]
		for _, c := range q.Candidates {
			if err := plainFiles(c.Spec); err != nil {
				notes = append(notes, fmt.Sprintf("%s: it cannot be computed: %.300v", c.Source, err))
				continue
			}
			keep = append(keep, c)
		}
		q.Candidates = keep
		e := measure.Explain(ctx, q)
		if e != nil {
			e.Notes = append(e.Notes, notes...)
		}
		done <- e
	}()
	select {
	case e := <-done:
		return e
	case <-late.C:
		return &measure.Explanation{Notes: []string{"which input of the launch it was could not be computed in time"}}
	}
}

// plainFiles demands that the files of a launch are plain ones, and not too large:
// others may not end.
func plainFiles(s *launch.Spec) error {
	size := int64(0)
	for _, f := range []launch.File{s.Kernel, s.Initrd, s.Firmware, s.VarsFile, s.TEEFirmware} {
		if f.Path == "" {
			continue
		}
		fi, err := os.Stat(f.Path)
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return errors.New(f.Path + " is no plain file")
		}
		if size += fi.Size(); size > maxLaunched {
			return fmt.Errorf("its files are larger than %d bytes", int64(maxLaunched))
		}
	}
	return nil
}
