package main

import (
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
	simhw "github.com/cofferproject/coffer/tee/simhw/sim"
)

type plainTEE struct{ attest.Attester }

type recordingTEE struct {
	attest.Attester
	attest.Recorder
}

// Devices beside the TEE are found whether or not the TEE records events.
func TestHardwareOfEveryTEE(t *testing.T) {
	for name, c := range map[string]struct {
		tee     attest.Attester
		records bool
	}{"plain": {plainTEE{}, false}, "recording": {recordingTEE{}, true}} {
		d := new(simhw.Device)
		a := own(c.tee, d)
		if _, ok := a.(attest.Recorder); ok != c.records {
			t.Errorf("%s: records events: %t", name, ok)
		}
		hardware.Lock()
		if hardware.device != d {
			t.Errorf("%s: no device can be found beside it", name)
		}
		hardware.device = nil
		hardware.Unlock()
	}
}
