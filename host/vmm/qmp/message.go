package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// message is the union of what QEMU sends. Exactly one of QMP, Event, Return
// and Error is set.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

var errTooLong = fmt.Errorf("qmp: message longer than %d bytes", MaxMessage)

type reader struct{ sc *bufio.Scanner }

func newReader(r io.Reader) *reader {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 4<<10), MaxMessage)
	return &reader{sc}
}

// next gives the next message; io.EOF at the end.
func (r *reader) next() (message, error) {
	for r.sc.Scan() {
		if len(r.sc.Bytes()) == 0 {
			continue
		}
		return decode(r.sc.Bytes())
	}
	if errors.Is(r.sc.Err(), bufio.ErrTooLong) {
		return message{}, errTooLong
	}
	if err := r.sc.Err(); err != nil {
		return message{}, fmt.Errorf("qmp: reading: %w", err)
	}
	return message{}, io.EOF
}

// decode parses one line. Fields it does not know are fine: QEMU adds some in
// every version.
func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("qmp: decoding a message: %w", err)
	}
	n := 0
	for _, set := range []bool{m.QMP != nil, m.Event != "", m.Return != nil, m.Error != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return message{}, errors.New("qmp: a message that is none of greeting, event, return and error")
	}
	return m, nil
}
