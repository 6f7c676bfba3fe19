package aael

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// CCELPath is where Linux shows the firmware's confidential computing log.
const CCELPath = "/sys/firmware/acpi/tables/data/CCEL"

// Entry is one event with the register that the log names.
type Entry struct {
	Index uint32
	Event
}

// Parse reads the entries of a log without a header, each with a digest of a
// that is its event's. It is strict: what Text would not write is an error.
func Parse(b []byte, a eventlog.Algorithm) ([]Entry, error) {
	l, err := eventlog.Parse(append(eventlog.SpecHeader(a), b...))
	if err != nil {
		return nil, err
	}
	out := make([]Entry, len(l.Events))
	for i := range l.Events {
		if out[i], err = parse(&l.Events[i], a); err != nil {
			return nil, fmt.Errorf("event log: entry %d: %w", i, err)
		}
	}
	return out, nil
}

// Is reports whether an event of any log says that it is the attestation agent's.
func Is(e *eventlog.Event) bool {
	return e.Type == refvalue.EventTag && len(e.Data) >= 4 && binary.LittleEndian.Uint32(e.Data) == eventlog.TagAAEL
}

// Check demands of such an event what Text would write, and that its digest of a
// is its own: its text is then what the register took.
func Check(e *eventlog.Event, a eventlog.Algorithm) error {
	_, err := parse(e, a)
	return err
}

// Explain reads the entries of one register, of the given number, and gives the
// value to which they bring it from zero. An entry of another register is an
// error: nothing would vouch for it.
func Explain(b []byte, register uint32, a eventlog.Algorithm) (value []byte, events []eventlog.Event, err error) {
	l, err := eventlog.Parse(append(eventlog.SpecHeader(a), b...))
	if err != nil {
		return nil, nil, err
	}
	for i := range l.Events {
		e := &l.Events[i]
		if err := Check(e, a); err != nil {
			return nil, nil, fmt.Errorf("event log: entry %d: %w", i, err)
		}
		if e.Register != register {
			return nil, nil, fmt.Errorf("event log: entry %d is of register %d, the log's is %d", i, e.Register, register)
		}
	}
	if value, err = l.Replay(a, register); err != nil {
		return nil, nil, err
	}
	return value, l.Events, nil
}

// Texts gives the texts of the agent's events among those of any log, in order.
// The caller has checked them.
func Texts(events []eventlog.Event) []string {
	var out []string
	for i := range events {
		if e := &events[i]; Is(e) && len(e.Data) >= 8 {
			out = append(out, string(e.Data[8:]))
		}
	}
	return out
}

// maxQuotes bounds how often Around repeats.
const maxQuotes = 3

// Around makes a quote that fits the entries which it gives: if the log grew
// meanwhile, the quote may have the event or not, and is made anew. No entries
// function: the guest records none.
func Around(entries func() ([]byte, error), quote func() error) ([]byte, error) {
	if entries == nil {
		return nil, quote()
	}
	for range maxQuotes {
		before, err := entries()
		if err != nil {
			return nil, err
		}
		if err := quote(); err != nil {
			return nil, err
		}
		after, err := entries()
		if err != nil {
			return nil, err
		}
		if bytes.Equal(before, after) {
			return after, nil
		}
	}
	return nil, fmt.Errorf("the event log grew with every quote, %d times", maxQuotes)
}

func parse(e *eventlog.Event, a eventlog.Algorithm) (Entry, error) {
	out := Entry{Index: e.Register}
	le := binary.LittleEndian
	if !Is(e) || len(e.Data) < 8 || int64(le.Uint32(e.Data[4:])) != int64(len(e.Data)-8) {
		return out, errors.New("not an event of the attestation agent")
	}
	if sum, ok := e.Sum(a); !ok || string(sum) != string(a.Hash(e.Data)) {
		return out, errors.New("the digest is not the event's")
	}
	p := strings.SplitN(string(e.Data[8:]), " ", 3)
	if len(p) != 3 {
		return out, errors.New("not three parts")
	}
	out.Event = Event{Domain: p[0], Operation: p[1], Content: p[2]}
	_, err := out.Text()
	return out, err
}

// CCEventlog is the published member cc_eventlog before base64: the firmware's
// log, the entries, eight bytes of padding. Without a firmware's log a fixed
// header stands for it; with neither it is nil (JSON null).
func CCEventlog(ccel, entries []byte) ([]byte, error) {
	if len(ccel) == 0 && len(entries) == 0 {
		return nil, nil
	}
	b := eventlog.AAELHeader()
	if len(ccel) > 0 {
		var err error
		if b, err = eventlog.TrimCC(ccel); err != nil {
			return nil, fmt.Errorf("firmware's event log: %w", err)
		}
	}
	b = append(append(b, entries...), eventlog.Padding...)
	if len(b) > eventlog.MaxCCSize {
		return nil, fmt.Errorf("event logs: %d bytes, at most %d", len(b), eventlog.MaxCCSize)
	}
	return b, nil
}

// ReadCCEL reads the firmware's log; nil if there is none.
func ReadCCEL(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("firmware's event log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, eventlog.MaxCCSize+1))
	if err != nil {
		return nil, fmt.Errorf("firmware's event log: %w", err)
	}
	if len(b) > eventlog.MaxCCSize {
		return nil, fmt.Errorf("firmware's event log: more than %d bytes", eventlog.MaxCCSize)
	}
	return b, nil
}
