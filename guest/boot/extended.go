package boot

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
)

// digestSizes are those of run-time registers, by their algorithm.
var digestSizes = map[string]int{"sha256": 32, "sha384": 48, "sm3": 32}

// Extended is the Register of a TEE with run-time registers and none that is
// bound at launch: the register that stands for PCR 8 must be zero and is
// extended exactly once.
type Extended struct {
	Name      string // wire name of the TEE
	Registers attest.Extender
	Device    io.Closer // closed by Close; nil: nothing
}

// TEE implements Register.
func (e *Extended) TEE() string { return e.Name }

// BindInitdata implements Register.
func (e *Extended) BindInitdata(digest []byte, _ bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), registerWait)
	defer cancel()
	n, err := e.Registers.Register(refvalue.PCRInitdata)
	if err != nil {
		return fmt.Errorf("finding the initdata register of %s: %w", e.Name, err)
	}
	v, err := e.Registers.Read(ctx, n)
	if err != nil {
		return fmt.Errorf("reading the initdata register of %s: %w", e.Name, err)
	}
	if len(v) == 0 || slices.ContainsFunc(v, func(b byte) bool { return b != 0 }) {
		return fmt.Errorf("the initdata register of %s is %x, not zero: something extended it before", e.Name, v)
	}
	size := digestSizes[e.Registers.Hash()]
	if size == 0 {
		return fmt.Errorf("the registers of %s are of %q", e.Name, e.Registers.Hash())
	}
	if err := e.Registers.Extend(ctx, n, initdata.Fit(digest, size)); err != nil {
		return fmt.Errorf("binding initdata to %s: %w", e.Name, err)
	}
	return nil
}

// Close gives the device back.
func (e *Extended) Close() error {
	if e.Device == nil {
		return nil
	}
	return e.Device.Close()
}
