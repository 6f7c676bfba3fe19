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
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/cca"
)

// Options configures New.
type Options struct {
	// Simulation is the note that goes into the evidence. Only coffer-guest-sim
	// sets it.
	Simulation string
}

// Attester implements attest.Attester and attest.Bound. Realm extensible
// measurements have no kernel interface yet, so it is no attest.Extender.
type Attester struct {
	device attest.Reporter
	o      Options
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Bound    = (*Attester)(nil)
)

// Open finds the kernel's device; attest.ErrNotPresent: this is no realm.
func Open() (*Attester, error) {
	r, err := configfs.Open(configfs.Dir, cca.Provider)
	if err != nil {
		return nil, fmt.Errorf("cca attester: %w", err)
	}
	return New(r, Options{})
}

// New makes an attester of a report device.
func New(device attest.Reporter, o Options) (*Attester, error) {
	if p := device.Provider(); p != cca.Provider {
		return nil, fmt.Errorf("cca attester: the report device is %.40q: %w", p, attest.ErrNotPresent)
	}
	return &Attester{device: device, o: o}, nil
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
	b, err := json.Marshal(&cca.Evidence{Token: t, Simulation: a.o.Simulation})
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
	got, err := cca.Challenge(t)
	if err != nil {
		return nil, fmt.Errorf("getting a cca token: %w", err)
	}
	if !bytes.Equal(got, challenge) {
		return nil, errors.New("getting a cca token: it is over another challenge")
	}
	return t, nil
}

// Close implements attest.Attester; it closes the device, if it can be.
func (a *Attester) Close() error {
	if c, ok := a.device.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
