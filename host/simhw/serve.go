package simhw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/api/simhw"
)

// ErrUnsupported says that the played TEE has no such register or device.
var ErrUnsupported = errors.New("this TEE has none")

// Hardware is one TEE's hardware model, measured and running.
type Hardware interface {
	// Handle does one operation other than hello. It is called by one goroutine.
	Handle(ctx context.Context, op simhw.Op, arg byte, payload []byte) ([]byte, error)
}

// Serve answers the guest's requests until conn ends. devices are those beside the
// TEE, by kind.
func Serve(ctx context.Context, conn io.ReadWriter, hello simhw.Hello, hw Hardware, devices map[string]*Device) error {
	greeting, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	for {
		q, err := simhw.ReadRequest(conn)
		if errors.Is(err, io.EOF) && !errors.Is(err, simhw.ErrMalformed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the guest's request: %w", err)
		}
		a := &simhw.Response{ID: q.ID, Payload: greeting}
		switch q.Op {
		case simhw.OpHello:
		case simhw.OpDevice:
			a.Payload, err = evidence(devices, q.Payload)
		default:
			a.Payload, err = hw.Handle(ctx, q.Op, q.Arg, q.Payload)
		}
		switch {
		case errors.Is(err, ErrUnsupported):
			a.Status, a.Payload = simhw.Unsupported, []byte(err.Error())
		case err != nil:
			a.Status, a.Payload = simhw.Failed, []byte(err.Error())
		}
		b, err := a.Encode()
		if err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return fmt.Errorf("answering the guest: %w", err)
		}
	}
}

// evidence asks one of the devices beside the TEE.
func evidence(devices map[string]*Device, payload []byte) ([]byte, error) {
	b, err := simhw.SplitBlobs(payload, 2)
	if err != nil {
		return nil, err
	}
	d := devices[string(b[0])]
	if d == nil {
		return nil, fmt.Errorf("device %.40q: %w", b[0], ErrUnsupported)
	}
	return d.Evidence(b[1])
}
