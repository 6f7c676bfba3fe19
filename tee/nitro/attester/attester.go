// Package attester gets evidence from the Nitro Secure Module of an enclave.
// NitroTPM, which hands out its documents through the TPM, has no attester here
// (SPEC.md).
//
// Invariants: the module is the kernel's or one that the caller hands in, and
// nothing takes its place; a register of the guest's is locked after the one
// extend with initdata, so that documents show it.
//
// Trust zone: guest.
package attester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/nitro/nsm"
)

// pcrInitdata is the register that TPMs have for initdata (attest.Extender).
const pcrInitdata = 8

// Attester is safe for concurrent use if its device is.
type Attester struct {
	m    nsm.Module
	note string
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Extender = (*Attester)(nil)
)

// Open takes the kernel's module; attest.ErrNotPresent where there is none.
func Open(ctx context.Context) (*Attester, error) {
	k, err := nsm.OpenKernel()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("nitro: %w", attest.ErrNotPresent)
	}
	if err != nil {
		return nil, err
	}
	a, err := New(ctx, k, "")
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return a, nil
}

// New takes a module. The note says what is not real; it is empty for hardware.
func New(ctx context.Context, d nsm.Device, note string) (*Attester, error) {
	a := &Attester{nsm.Module{Device: d}, note}
	info, err := a.m.Describe(ctx)
	if err != nil {
		return nil, err
	}
	if info.Digest != "SHA384" || info.PCRs <= nitro.PCRInitdata {
		return nil, fmt.Errorf("nitro: a module with %d registers of %s", info.PCRs, info.Digest)
	}
	return a, nil
}

// TEE gives the wire name.
func (a *Attester) TEE() string { return nitro.WireName }

// RequestExtra gives nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Evidence asks for a document with report data as its user data.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	d, err := a.m.Attest(ctx, initdata.Fit(reportData, nitro.UserDataSize), nil, nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(&nitro.Evidence{Document: d, Simulation: a.note})
}

// Hash names the registers' algorithm.
func (a *Attester) Hash() string { return "sha384" }

// Register gives the register of a TPM's: initdata's 8 is 16 here, those of the
// guest keep their number, the others are the hardware's.
func (a *Attester) Register(pcr int) (int, error) {
	switch {
	case pcr == pcrInitdata:
		return nitro.PCRInitdata, nil
	case nitro.OfGuest(pcr) && pcr != nitro.PCRInitdata:
		return pcr, nil
	}
	return 0, fmt.Errorf("PCR %d: %w", pcr, attest.ErrUnsupported)
}

// Extend extends a register of the guest's. Initdata's is taken once: it must be
// zero before, and is locked after.
func (a *Attester) Extend(ctx context.Context, register int, digest []byte) error {
	if !nitro.OfGuest(register) {
		return fmt.Errorf("register %d: %w", register, attest.ErrUnsupported)
	}
	if len(digest) != nitro.PCRSize {
		return fmt.Errorf("register %d: digest of %d bytes, not %d", register, len(digest), nitro.PCRSize)
	}
	if register != nitro.PCRInitdata {
		_, err := a.m.Extend(ctx, register, digest)
		return err
	}
	old, locked, err := a.m.Read(ctx, register)
	if err != nil {
		return err
	}
	if locked || string(old) != string(make([]byte, nitro.PCRSize)) {
		return fmt.Errorf("register %d was extended before", register)
	}
	if _, err := a.m.Extend(ctx, register, digest); err != nil {
		return err
	}
	return a.m.Lock(ctx, register)
}

// Read gives a register's value.
func (a *Attester) Read(ctx context.Context, register int) ([]byte, error) {
	v, _, err := a.m.Read(ctx, register)
	return v, err
}

// Close closes the device if it can be closed.
func (a *Attester) Close() error {
	if c, ok := a.m.Device.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
