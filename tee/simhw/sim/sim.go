// Package sim is the guest's end of simulated hardware: one device that has the
// shapes of the kernel's (attest.Reporter, run-time registers, /dev/nsm, a TPM),
// so that the release attesters work on it unchanged (api/simhw/SPEC.md).
//
// Invariant: only coffer-guest-sim links it; a link test in test/zones checks
// that.
//
// Trust zone: simulated guests. The other end is the host's; nothing is protected.
package sim

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/channel/virtioport"
	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/attest"
)

// callTimeout bounds one request where the caller's context does not: evidence
// of simulated hardware is a signature and no more.
const callTimeout = 30 * time.Second

// Device is simulated hardware. It is safe for concurrent use.
type Device struct {
	hello *simhw.Hello

	mu   sync.Mutex
	conn io.ReadWriteCloser
	err  error // the connection is of no use any more
}

var _ attest.Reporter = (*Device)(nil)

// Open opens the simulated hardware of this machine; attest.ErrNotPresent if it
// has none. It waits until the kernel has named the machine's ports.
func Open(ctx context.Context) (*Device, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The agent's port is announced after ours: once it is there, so are we or never.
	for {
		ok, err := virtioport.Present(simhw.PortName)
		if err != nil {
			return nil, err
		}
		if ok {
			break
		}
		last, err := virtioport.Present(channel.PortName)
		if err != nil {
			return nil, err
		}
		if last {
			if ok, err = virtioport.Present(simhw.PortName); err == nil && ok {
				break
			}
			return nil, fmt.Errorf("simulated hardware: %w", attest.ErrNotPresent)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("simulated hardware: %w", attest.ErrNotPresent)
		case <-time.After(5 * time.Millisecond):
		}
	}
	p, err := virtioport.Open(ctx, simhw.PortName)
	if err != nil {
		return nil, fmt.Errorf("opening simulated hardware: %w", err)
	}
	return New(ctx, p)
}

// New greets the hardware at the other end of conn, which the Device owns.
func New(ctx context.Context, conn io.ReadWriteCloser) (*Device, error) {
	d := &Device{conn: conn}
	b, err := d.Call(ctx, simhw.OpHello, 0, nil)
	if err == nil {
		d.hello, err = simhw.ParseHello(b)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greeting simulated hardware: %w", err), conn.Close())
	}
	return d, nil
}

// TEE is the wire name of what is played.
func (d *Device) TEE() string { return d.hello.TEE }

// Note is the simulation note, which evidence must carry.
func (d *Device) Note() string { return d.hello.Note }

// Devices are the kinds of devices that are played beside the TEE.
func (d *Device) Devices() []string { return d.hello.Devices }

// Provider implements attest.Reporter.
func (d *Device) Provider() string { return d.hello.Provider }

// Close gives the device back.
func (d *Device) Close() error { return d.conn.Close() }

// Call does one operation. It is for the attesters of TEEs whose hardware is no
// report device; others use the methods below.
func (d *Device) Call(ctx context.Context, op simhw.Op, arg byte, payload []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = d.conn.Close() })
	a, err := d.exchange(op, arg, payload)
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		d.err = fmt.Errorf("asking simulated hardware: %w", err)
		return nil, d.err
	}
	switch a.Status {
	case simhw.Done:
		return a.Payload, nil
	case simhw.Unsupported:
		return nil, fmt.Errorf("simulated hardware: %q: %w", a.Payload, attest.ErrUnsupported)
	default:
		return nil, fmt.Errorf("simulated hardware: %q", a.Payload)
	}
}

func (d *Device) exchange(op simhw.Op, arg byte, payload []byte) (*simhw.Response, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	q := &simhw.Request{ID: binary.LittleEndian.Uint64(id[:]), Op: op, Arg: arg, Payload: payload}
	b, err := q.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := d.conn.Write(b); err != nil {
		return nil, err
	}
	return simhw.ReadResponse(d.conn, q.ID)
}

// Report implements attest.Reporter.
func (d *Device) Report(ctx context.Context, inblob []byte) (outblob, auxblob []byte, err error) {
	b, err := d.Call(ctx, simhw.OpReport, 0, inblob)
	if err != nil {
		return nil, nil, err
	}
	blobs, err := simhw.SplitBlobs(b, 2)
	if err != nil {
		return nil, nil, err
	}
	return blobs[0], blobs[1], nil
}

// InitdataRegister reads the launch-bound register where no report carries it.
func (d *Device) InitdataRegister(ctx context.Context) ([]byte, error) {
	return d.Call(ctx, simhw.OpInitdataRegister, 0, nil)
}

// EventLog reads the firmware's event log (CCEL).
func (d *Device) EventLog(ctx context.Context) ([]byte, error) {
	return d.Call(ctx, simhw.OpEventLog, 0, nil)
}

// Read gives the value of a run-time register.
func (d *Device) Read(ctx context.Context, register int) ([]byte, error) {
	if register < 0 || register > 255 {
		return nil, fmt.Errorf("register %d: %w", register, attest.ErrUnsupported)
	}
	return d.Call(ctx, simhw.OpReadRegister, byte(register), nil)
}

// Extend extends a run-time register.
func (d *Device) Extend(ctx context.Context, register int, digest []byte) error {
	if register < 0 || register > 255 {
		return fmt.Errorf("register %d: %w", register, attest.ErrUnsupported)
	}
	_, err := d.Call(ctx, simhw.OpExtendRegister, byte(register), digest)
	return err
}

// DeviceEvidence gives the evidence JSON of a kind of device for a nonce.
func (d *Device) DeviceEvidence(ctx context.Context, kind string, nonce []byte) ([]byte, error) {
	return d.Call(ctx, simhw.OpDevice, 0, simhw.JoinBlobs([]byte(kind), nonce))
}

// NSM passes one request to the simulated Nitro security module.
func (d *Device) NSM(ctx context.Context, request []byte) ([]byte, error) {
	return d.Call(ctx, simhw.OpNSM, 0, request)
}

// Send passes one command to the simulated TPM (go-tpm's transport.TPM).
func (d *Device) Send(command []byte) ([]byte, error) {
	return d.Call(context.Background(), simhw.OpTPM, 0, command)
}
