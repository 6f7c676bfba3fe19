package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const maxLine = 64 << 10

// genesis is the Prev of the first record.
var genesis = strings.Repeat("0", 2*sha256.Size)

// end is where a log ends.
type end struct {
	seq  uint64
	hash string // of the last record
	id   string // hash of the first record; "" if there is none, or not here any more
}

// medium is where a log lies. All but read are called by one goroutine at a time.
type medium interface {
	// load finds the end of the chain.
	load() (end, error)
	// append makes a group of lines durable, each with its newline: from is where the
	// log ends before them, to where with them.
	append(lines []byte, from, to end) error
	// recover takes away what an append may have left that failed.
	recover(at end) error
	// read visits the records from number `from` on until fn gives false.
	read(from uint64, fn func(seq uint64, line []byte) bool) error
	// openCheckpoints prepares for keep.
	openCheckpoints() error
	// keep makes a signed checkpoint durable.
	keep(signed string, public string) error
	close() error
}

// writer makes records of entries: at any time either in step with its medium, or
// broken and to be recovered.
type writer struct {
	m   medium
	at  end
	bad bool
}

// write appends a group at once.
func (w *writer) write(group []*pending, now time.Time) error {
	if w.bad {
		if err := w.m.recover(w.at); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		w.bad = false
	}
	if len(group) == 0 {
		return nil
	}
	if err := w.append(group, now.UTC()); err != nil {
		w.bad = true
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

func (w *writer) append(group []*pending, now time.Time) error {
	var buf []byte
	to := w.at
	for _, p := range group {
		to.seq++
		p.entry.Seq, p.entry.Time, p.entry.Prev = to.seq, now, to.hash
		line, err := json.Marshal(p.entry)
		if err != nil {
			return err
		}
		if len(line) >= maxLine {
			return fmt.Errorf("record of %d bytes, at most %d", len(line), maxLine)
		}
		if to.hash = hashLine(line); to.seq == 1 {
			to.id = to.hash
		}
		buf = append(append(buf, line...), '\n')
	}
	if err := w.m.append(buf, w.at, to); err != nil {
		return err
	}
	w.at = to
	return nil
}

func hashLine(line []byte) string {
	s := sha256.Sum256(line)
	return hex.EncodeToString(s[:])
}
