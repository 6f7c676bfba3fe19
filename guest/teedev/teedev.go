// Package teedev finds the machine's TEE by what the kernel says and opens it:
// configfs-tsm and the TEE drivers' devices first, a TPM last. The order is fixed.
//
// Invariants: a device that is there and cannot be opened is an error, never a
// reason to try the next; nothing here is simulated.
//
// Trust zone: guest.
package teedev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	cca "github.com/cofferproject/coffer/tee/cca/attester"
	nitro "github.com/cofferproject/coffer/tee/nitro/attester"
	snp "github.com/cofferproject/coffer/tee/snp/attester"
	tdx "github.com/cofferproject/coffer/tee/tdx/attester"
	tpm "github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// Opener opens one kind of TEE; attest.ErrNotPresent: this machine is not one.
type Opener struct {
	TEE  string // wire name
	Open func(log *slog.Logger) (attest.Attester, error)
}

// Openers lists the TEEs in the order in which they are looked for.
var Openers = []Opener{
	{"snp", func(*slog.Logger) (attest.Attester, error) { return opened(snp.Open()) }},
	{"tdx", func(*slog.Logger) (attest.Attester, error) { return opened(tdx.Open()) }},
	{"cca", func(*slog.Logger) (attest.Attester, error) {
		r, err := configfs.Open(configfs.Dir, configfs.CCA)
		if err != nil {
			return nil, err
		}
		return opened(cca.New(r, cca.Options{}))
	}},
	{"nitro", func(*slog.Logger) (attest.Attester, error) { return opened(nitro.Open(context.Background())) }},
	{teeAzure, openAzure},
	{"tpm", func(log *slog.Logger) (attest.Attester, error) {
		t, err := device.Open()
		if errors.Is(err, device.ErrNoTPM) {
			return nil, fmt.Errorf("%w: %w", attest.ErrNotPresent, err)
		}
		if err != nil {
			return nil, err
		}
		return opened(tpm.New(t, tpm.Options{Logger: log}))
	}},
}

// teeAzure stands for both TEEs of Azure; the paravisor says which.
const teeAzure = "azure"

// opened keeps a nil pointer from becoming an attester that is not nil.
func opened[T attest.Attester](a T, err error) (attest.Attester, error) {
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Open opens the machine's TEE for attestation.
func Open(log *slog.Logger) (attest.Attester, error) { return open(log, Openers) }

func open(log *slog.Logger, list []Opener) (attest.Attester, error) {
	for _, o := range list {
		a, err := o.Open(log)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, attest.ErrNotPresent) {
			return nil, fmt.Errorf("opening %s: %w", o.TEE, err)
		}
	}
	return nil, fmt.Errorf("no TEE: %w", attest.ErrNotPresent)
}

// Register opens what initdata is bound to; nil without a TEE.
func Register(log *slog.Logger) (boot.Register, error) { return register(log, Openers) }

func register(log *slog.Logger, list []Opener) (boot.Register, error) {
	for _, o := range list {
		if o.TEE == "tpm" {
			// PCR 8 is extended past the attester, whose keys take their time.
			if t, ok := boot.FindTPM(); ok {
				return t, nil
			}
			continue
		}
		r, err := o.register(log)
		if errors.Is(err, attest.ErrNotPresent) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening %s: %w", o.TEE, err)
		}
		return r, nil
	}
	return nil, nil
}

func (o *Opener) register(log *slog.Logger) (boot.Register, error) {
	if o.TEE == teeAzure {
		return azureRegister()
	}
	a, err := o.Open(log)
	if err != nil {
		return nil, err
	}
	return Bound(a)
}

// Bound gives the register for initdata: the one that the TEE was launched with,
// or else one that the guest extends. It takes over the attester.
func Bound(a attest.Attester) (boot.Register, error) {
	if b, ok := a.(attest.Bound); ok {
		return &boot.LaunchBound{Name: a.TEE(), Reader: b, Device: io.Closer(a)}, nil
	}
	if e, ok := a.(attest.Extender); ok {
		return &boot.Extended{Name: a.TEE(), Registers: e, Device: io.Closer(a)}, nil
	}
	return nil, errors.Join(fmt.Errorf("%s has no initdata register: a pod in it can be bound to nothing", a.TEE()), a.Close())
}
