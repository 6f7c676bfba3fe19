package appraise

import (
	"testing"

	"github.com/cofferproject/coffer/api/refvalue"
)

// TestInitrdIsTheCause: a longer initrd changes the kernel's event in PCR 4
// first; the denial must name the initrd all the same.
func TestInitrdIsTheCause(t *testing.T) {
	set := &refvalue.Set{Source: "test", Image: "sim", MemoryMiB: 256}
	kernel := &mismatch{set: set, pcr: 4, expected: &refvalue.Event{PCR: 4, What: "kernel"}}
	initrd := &mismatch{set: set, pcr: 9, expected: &refvalue.Event{PCR: 9, What: refvalue.WhatInitrd}}
	var m *mismatch
	d := m.add(kernel).add(initrd).denial()
	if d.Claim != "PCR 9: Linux initrd" || d.Detail != "also different: PCR 4: kernel" {
		t.Errorf("claim %q, detail %q", d.Claim, d.Detail)
	}
	d = m.add(&mismatch{set: set, pcr: 4, expected: &refvalue.Event{PCR: 4, What: "kernel"}}).denial()
	if d.Claim != "PCR 4: kernel" || d.Detail != "" {
		t.Errorf("the kernel alone: claim %q, detail %q", d.Claim, d.Detail)
	}
}
