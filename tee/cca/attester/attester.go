// Package attester gets Arm CCA evidence from the kernel's report device
// (configfs-tsm, provider "arm_cca_guest"), or from anything with its shape.
//
// Invariants: it opens no connection; a device of another provider is
// attest.ErrNotPresent, never tried; evidence of simulated hardware carries its
// note.
//
// Trust zone: guest.
package attester

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/cca"
)

// Attester implements attest.Attester and attest.Bound. Realm extensible
// measurements have no kernel interface yet, so it is no attest.Extender.
type Attester struct {
	device attest.Reporter
	note   string
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Bound    = (*Attester)(nil)
)

// New makes an attester of a report device. A device with a method
// Note() string is simulated, and its note goes into all evidence.
func New(device attest.Reporter) (*Attester, error) {
	if p := device.Provider(); p != cca.Provider {
		return nil, fmt.Errorf("cca attester: the report device is %.40q: %w", p, attest.ErrNotPresent)
	}
	a := &Attester{device: device}
	if n, ok := device.(interface{ Note() string }); ok {
		a.note = n.Note()
	}
	return a, nil
}

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return cca.WireName }

// RequestExtra implements attest.Attester: nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Evidence implements attest.Attester.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	t, err := a.token(ctx, initdata.Fit(reportData, cca.ChallengeSize))
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(&cca.Evidence{Token: t, Simulation: a.note})
	if err != nil {
		return nil, fmt.Errorf("encoding cca evidence: %w", err)
	}
	return b, nil
}

// InitdataRegister implements attest.Bound: the realm personalization value, from
// a token over a challenge of zeros. The token comes from the realm management
// monitor through this realm's own kernel.
func (a *Attester) InitdataRegister(ctx context.Context) ([]byte, error) {
	t, err := a.token(ctx, make([]byte, cca.ChallengeSize))
	if err != nil {
		return nil, err
	}
	return cca.PersonalizationValue(t)
}

func (a *Attester) token(ctx context.Context, challenge []byte) ([]byte, error) {
	t, _, err := a.device.Report(ctx, challenge)
	if err != nil {
		return nil, fmt.Errorf("getting a cca token: %w", err)
	}
	if len(t) == 0 || len(t) > cca.MaxToken {
		return nil, fmt.Errorf("getting a cca token: %d bytes, at most %d", len(t), cca.MaxToken)
	}
	return t, nil
}

// Close implements attest.Attester; the device is the caller's.
func (a *Attester) Close() error { return nil }
