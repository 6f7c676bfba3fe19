// Package appraise compares a measured boot with reference values: every event
// in the quoted registers must be the one the owner's build foretold, in order,
// and the log must give the quoted values.
//
// Invariants: nothing is matched by pattern or by text, only by register, type
// and digest; a missing event is a denial as much as an extra one; PCR 8 has no
// firmware events, its one extend is judged against initdata by the caller.
//
// Trust zone: trustee and owner.
package appraise

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// Component names this step in denials.
const Component = "tpm-verifier"

// Reasons of denials.
const (
	ReasonNoReferenceValues denial.Reason = "tpm-no-reference-values"
	ReasonLogMalformed      denial.Reason = "tpm-eventlog-malformed"
	ReasonLogReplay         denial.Reason = "tpm-eventlog-replay"
	ReasonEventUnexplained  denial.Reason = "tpm-event-unexplained"
	ReasonEventMissing      denial.Reason = "tpm-event-missing"
)

// Explained is one event and the reference value that explains it.
type Explained struct {
	PCR    int                `json:"pcr"`
	Type   refvalue.EventType `json:"type"`
	Digest refvalue.Digest    `json:"digest"`
	What   string             `json:"what"`
}

// EventLog finds the set of reference values that explains the whole log, for
// TEE name tee ("tpm", "tpm-sim"). pcrs are the quoted values.
func EventLog(raw []byte, pcrs [24][32]byte, tee string, refs []*refvalue.Bundle) (*refvalue.Set, []Explained, error) {
	l, err := eventlog.Parse(raw)
	if err != nil {
		return nil, nil, &denial.Denial{Reason: ReasonLogMalformed, Component: Component, Claim: "event log", Detail: err.Error()}
	}
	for _, pcr := range refvalue.QuotedPCRs {
		if pcr == refvalue.PCRInitdata {
			continue // extended by the guest, after the log
		}
		v, err := l.Replay(eventlog.SHA256, uint32(pcr))
		if err != nil {
			return nil, nil, &denial.Denial{Reason: ReasonLogMalformed, Component: Component, Claim: "event log", Detail: err.Error()}
		}
		if !bytes.Equal(v, pcrs[pcr][:]) {
			return nil, nil, &denial.Denial{
				Reason: ReasonLogReplay, Component: Component, Claim: fmt.Sprintf("PCR %d", pcr),
				Measured: hex.EncodeToString(pcrs[pcr][:]), Expected: hex.EncodeToString(v), Source: "event log of the same evidence",
			}
		}
	}
	measured := measuredEvents(l)
	var best *mismatch
	for _, b := range refs {
		for i := range b.Sets {
			s := &b.Sets[i]
			if s.TEE != tee {
				continue
			}
			ex, bad := match(measured, s)
			if bad == nil {
				return s, ex, nil
			}
			if best == nil || bad.matched > best.matched {
				best = bad
			}
		}
	}
	if best == nil {
		return nil, nil, &denial.Denial{
			Reason: ReasonNoReferenceValues, Component: Component, Claim: "reference values", Measured: "none for TEE " + tee,
			Expected: "at least one set", Source: "namespace",
		}
	}
	return nil, nil, best.denial()
}

// measuredEvents gives what the log says was extended, per register.
func measuredEvents(l *eventlog.Log) map[int][]eventlog.Event {
	m := map[int][]eventlog.Event{}
	for _, e := range l.Events {
		if e.Type != refvalue.NoAction {
			m[int(e.Register)] = append(m[int(e.Register)], e)
		}
	}
	return m
}

// mismatch is the first difference between a log and one set.
type mismatch struct {
	set      *refvalue.Set
	matched  int // events that agree, to find the nearest set
	pcr      int
	measured *eventlog.Event // nil: the log ended
	expected *refvalue.Event // nil: the set ended
	also     []string        // claims of further differences, at most maxAlso
}

// pcrBootLoader is the register of the kernel's own event.
const pcrBootLoader = 4

// maxAlso bounds the further differences that a denial names.
const maxAlso = 8

// match compares register by register. It goes on after the first difference
// only to count how near the set is.
func match(measured map[int][]eventlog.Event, s *refvalue.Set) ([]Explained, *mismatch) {
	want := map[int][]*refvalue.Event{}
	for i := range s.Events {
		e := &s.Events[i]
		if n := len(want[e.PCR]); e.VCPUs != 0 && n > 0 && want[e.PCR][n-1].VCPUs != 0 {
			// Alternatives, one for each number of vCPUs, share a place in the
			// register: keep the one that was measured, or else the first.
			if g := measured[e.PCR]; n <= len(g) && same(&g[n-1], e) {
				want[e.PCR][n-1] = e
			}
			continue
		}
		want[e.PCR] = append(want[e.PCR], e)
	}
	var out []Explained
	var bad *mismatch
	for _, pcr := range refvalue.QuotedPCRs {
		got, exp := measured[pcr], want[pcr]
		for i := range max(len(got), len(exp)) {
			var g *eventlog.Event
			var x *refvalue.Event
			if i < len(got) {
				g = &got[i]
			}
			if i < len(exp) {
				x = exp[i]
			}
			if g != nil && x != nil && same(g, x) {
				out = append(out, Explained{pcr, x.Type, x.Digest, x.What})
				continue
			}
			bad = bad.add(&mismatch{set: s, pcr: pcr, measured: g, expected: x})
		}
	}
	if bad != nil {
		bad.matched = len(out)
		return nil, bad
	}
	return out, nil
}

// add takes a further difference in; the receiver is nil for the first. The first
// is the one that is told in full, with one exception: where the initrd differs,
// the kernel's event before it does too if QEMU wrote another initrd size into
// the kernel's header, and the initrd is the cause.
func (m *mismatch) add(n *mismatch) *mismatch {
	if m == nil {
		return n
	}
	if m.pcr == pcrBootLoader && n.expected != nil && n.expected.What == refvalue.WhatInitrd {
		n.also = append([]string{m.claim()}, m.also...)
		return n
	}
	if len(m.also) < maxAlso {
		m.also = append(m.also, n.claim())
	}
	return m
}

// claim names the register and the event.
func (m *mismatch) claim() string {
	what := ""
	switch {
	case m.expected != nil:
		what = m.expected.What
	case m.measured != nil:
		what = m.measured.Text()
	}
	return fmt.Sprintf("PCR %d: %s", m.pcr, what)
}

func same(g *eventlog.Event, x *refvalue.Event) bool {
	sum, ok := g.Sum(eventlog.SHA256)
	return ok && g.Type == x.Type && bytes.Equal(sum, x.Digest[:])
}

func (m *mismatch) denial() *denial.Denial {
	d := &denial.Denial{
		Reason: ReasonEventUnexplained, Component: Component,
		Source: fmt.Sprintf("%s (image %s, %d MiB)", m.set.Source, m.set.Image, m.set.MemoryMiB),
	}
	if m.measured != nil {
		sum, _ := m.measured.Sum(eventlog.SHA256)
		d.Measured = hex.EncodeToString(sum)
	} else {
		d.Reason, d.Measured = ReasonEventMissing, "no further event"
	}
	if m.expected != nil {
		d.Expected = m.expected.Digest.String()
		if m.measured != nil && m.measured.Type != m.expected.Type {
			d.Detail = fmt.Sprintf("event is %s, expected %s", m.measured.Type, m.expected.Type)
		}
	} else {
		d.Expected = "no further event"
	}
	d.Claim = m.claim()
	if len(m.also) > 0 {
		if d.Detail != "" {
			d.Detail += "; "
		}
		d.Detail += "also different: " + strings.Join(m.also, "; ")
	}
	return d
}
