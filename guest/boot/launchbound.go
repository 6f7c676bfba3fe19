package boot

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/attest"
)

// registerWait bounds reading a launch-bound register.
const registerWait = 30 * time.Second

// Errors of launch-bound registers.
var (
	ErrRegisterZero   = errors.New("the machine was launched without initdata, and there is an initdata device")
	ErrRegisterSet    = errors.New("the machine was launched with initdata, and there is no initdata device")
	ErrRegisterDiffer = errors.New("the machine was launched with other initdata")
)

// LaunchBound is the Register of a TEE whose initdata register is fixed at launch
// (HOST_DATA, MRCONFIGID, RPV, CONFIGID): it is read and compared.
type LaunchBound struct {
	Name   string // wire name of the TEE
	Reader attest.Bound
	Device io.Closer // closed by Close; nil: nothing
}

// TEE implements Register.
func (l *LaunchBound) TEE() string { return l.Name }

// BindInitdata implements Register: nothing is bound any more, only compared.
func (l *LaunchBound) BindInitdata(digest []byte, device bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), registerWait)
	defer cancel()
	v, err := l.Reader.InitdataRegister(ctx)
	if err != nil {
		return fmt.Errorf("reading the initdata register of %s: %w", l.Name, err)
	}
	zero := !slices.ContainsFunc(v, func(b byte) bool { return b != 0 })
	switch {
	case len(v) < 32:
		return fmt.Errorf("reading the initdata register of %s: %d bytes", l.Name, len(v))
	case zero && !device:
		return nil
	case zero:
		return ErrRegisterZero
	case !device:
		return fmt.Errorf("%w: %s", ErrRegisterSet, hex.EncodeToString(v))
	case !bytes.Equal(v, initdata.Fit(digest, len(v))):
		return fmt.Errorf("%w: the register holds %s, the device %s", ErrRegisterDiffer, hex.EncodeToString(v), hex.EncodeToString(digest))
	}
	return nil
}

// Close gives the device back.
func (l *LaunchBound) Close() error {
	if l.Device == nil {
		return nil
	}
	return l.Device.Close()
}
