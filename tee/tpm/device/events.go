package device

import (
	"context"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"
)

// Events takes run-time events into the registers of a TPM: attest.Extender, for
// the attesters of all TEEs that have one. A PCR is its own register.
type Events struct {
	mu    *sync.Mutex
	t     transport.TPM
	takes func(pcr int) error
}

// NewEvents uses a connection under its lock; takes gives an error for a PCR that
// takes no events of the guest's.
func NewEvents(mu *sync.Mutex, t transport.TPM, takes func(pcr int) error) Events {
	return Events{mu, t, takes}
}

// Hash implements attest.Extender: the bank that quotes cover.
func (e *Events) Hash() string { return "sha256" }

// Register implements attest.Extender.
func (e *Events) Register(pcr int) (int, error) {
	if err := e.takes(pcr); err != nil {
		return 0, err
	}
	return pcr, nil
}

// Extend implements attest.Extender.
func (e *Events) Extend(_ context.Context, register int, digest []byte) error {
	pcr, err := e.Register(register)
	if err != nil {
		return err
	}
	d, err := Digest(digest)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return Extend(e.t, uint(pcr), d)
}

// Read implements attest.Extender; any PCR can be read.
func (e *Events) Read(_ context.Context, register int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ReadPCR(e.t, register)
}
