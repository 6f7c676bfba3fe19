// Package simhw is the protocol between a simulated guest and coffer-simhw,
// which plays its TEE hardware (SPEC.md).
//
// Invariants: every length is checked before memory is taken; a frame that
// breaks the rules ends the connection; one request is outstanding at a time.
//
// Trust zone: none. Simulation protects nothing; release guests do not link it.
package simhw

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// PortName is the virtio-serial port of the simulated hardware.
const PortName = "coffer.simhw.0"

// Op is what the guest asks for.
type Op byte

// Operations (SPEC.md says what each takes and gives).
const (
	OpHello Op = iota + 1
	OpReport
	OpInitdataRegister
	OpEventLog
	OpReadRegister
	OpExtendRegister
	OpNSM
	OpTPM
	OpMetadata
	OpDevice
	OpSealingKey
)

// Status is how a request ended.
type Status byte

// Statuses.
const (
	Done Status = iota
	Failed
	Unsupported
)

// Limits.
const (
	MaxRequest  = 64 << 10
	MaxResponse = 1 << 20
	MaxText     = 1 << 10
	maxBlobs    = 8
	maxDevices  = 16
	maxSkip     = 2 << 20
	headerSize  = 20
)

var (
	magicRequest  = [4]byte{'C', 'S', 'H', 'Q'}
	magicResponse = [4]byte{'C', 'S', 'H', 'A'}
)

// ErrMalformed says that a frame breaks the rules.
var ErrMalformed = errors.New("malformed frame of simulated hardware")

// Request is one request.
type Request struct {
	ID      uint64
	Op      Op
	Arg     byte
	Payload []byte
}

// Response answers one request.
type Response struct {
	ID      uint64
	Status  Status
	Payload []byte
}

// Hello says which hardware is played.
type Hello struct {
	TEE      string `json:"tee"`      // wire name
	Provider string `json:"provider"` // as the kernel names it: "sev_guest"
	Note     string `json:"note"`     // the simulation note
	// Devices are the kinds of devices played beside the TEE, by wire name; of each
	// there is one.
	Devices []string `json:"devices,omitempty"`
}

func frame(magic [4]byte, id uint64, a, b byte, payload []byte) []byte {
	f := make([]byte, headerSize, headerSize+len(payload))
	copy(f, magic[:])
	binary.LittleEndian.PutUint64(f[4:], id)
	f[12], f[13] = a, b
	binary.LittleEndian.PutUint32(f[16:], uint32(len(payload)))
	return append(f, payload...)
}

// Encode gives the frame of r.
func (r *Request) Encode() ([]byte, error) {
	if len(r.Payload) > MaxRequest {
		return nil, fmt.Errorf("encoding request: %d bytes, at most %d", len(r.Payload), MaxRequest)
	}
	return frame(magicRequest, r.ID, byte(r.Op), r.Arg, r.Payload), nil
}

// Encode gives the frame of r; a longer text is cut.
func (r *Response) Encode() ([]byte, error) {
	p := r.Payload
	if r.Status != Done && len(p) > MaxText {
		p = p[:MaxText]
	}
	if len(p) > MaxResponse {
		return nil, fmt.Errorf("encoding response: %d bytes, at most %d", len(p), MaxResponse)
	}
	return frame(magicResponse, r.ID, byte(r.Status), 0, p), nil
}

// ReadRequest reads one frame; io.EOF only between frames.
func ReadRequest(r io.Reader) (*Request, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(h[16:])
	if [4]byte(h[:4]) != magicRequest || h[14] != 0 || h[15] != 0 || n > MaxRequest {
		return nil, ErrMalformed
	}
	q := &Request{ID: binary.LittleEndian.Uint64(h[4:]), Op: Op(h[12]), Arg: h[13], Payload: make([]byte, n)}
	if _, err := io.ReadFull(r, q.Payload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return q, nil
}

// ReadResponse reads the response to the request with the given id and skips what
// an earlier process left behind.
func ReadResponse(r io.Reader, id uint64) (*Response, error) {
	want := binary.LittleEndian.AppendUint64(bytes.Clone(magicResponse[:]), id)
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:len(want)]); err != nil {
		return nil, err
	}
	for skipped := 0; !bytes.Equal(h[:len(want)], want); skipped++ {
		if skipped == maxSkip {
			return nil, fmt.Errorf("%w: no answer within %d bytes", ErrMalformed, maxSkip)
		}
		copy(h[:], h[1:len(want)])
		if _, err := io.ReadFull(r, h[len(want)-1:len(want)]); err != nil {
			return nil, err
		}
	}
	if _, err := io.ReadFull(r, h[len(want):]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	n, status := binary.LittleEndian.Uint32(h[16:]), Status(h[12])
	switch {
	case h[13] != 0 || h[14] != 0 || h[15] != 0 || n > MaxResponse || status > Unsupported:
		return nil, ErrMalformed
	case status != Done && n > MaxText:
		return nil, fmt.Errorf("%w: a text of %d bytes", ErrMalformed, n)
	}
	a := &Response{ID: id, Status: status, Payload: make([]byte, n)}
	if _, err := io.ReadFull(r, a.Payload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return a, nil
}

// JoinBlobs puts byte strings into one payload.
func JoinBlobs(blobs ...[]byte) []byte {
	var out []byte
	for _, b := range blobs {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
		out = append(out, b...)
	}
	return out
}

// SplitBlobs takes a payload of exactly n byte strings apart.
func SplitBlobs(p []byte, n int) ([][]byte, error) {
	if n > maxBlobs {
		return nil, fmt.Errorf("%w: %d blobs", ErrMalformed, n)
	}
	out := make([][]byte, n)
	for i := range out {
		if len(p) < 4 {
			return nil, fmt.Errorf("%w: cut in blob %d", ErrMalformed, i)
		}
		l := binary.LittleEndian.Uint32(p)
		if p = p[4:]; uint64(l) > uint64(len(p)) {
			return nil, fmt.Errorf("%w: blob %d is cut", ErrMalformed, i)
		}
		out[i], p = p[:l:l], p[l:]
	}
	if len(p) != 0 {
		return nil, fmt.Errorf("%w: data after the last blob", ErrMalformed)
	}
	return out, nil
}

// ParseHello decodes the answer to OpHello.
func ParseHello(b []byte) (*Hello, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	h := new(Hello)
	if err := d.Decode(h); err != nil {
		return nil, fmt.Errorf("decoding hello: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding hello: data after the document")
	}
	if h.TEE == "" || h.Note == "" || len(b) > 8*MaxText || len(h.Devices) > maxDevices {
		return nil, errors.New("decoding hello: TEE or note is missing, or it is too long")
	}
	return h, nil
}
