package auditcheck

import (
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/api/auditlog"
)

// Releases is what became of secrets.
type Releases struct {
	Authorised  uint64 `json:"authorised"`
	Delivered   uint64 `json:"delivered"`
	Undelivered uint64 `json:"undelivered"`
	// Unknown are those without an outcome: the trustee ended before it was recorded,
	// or the log is from before outcomes were.
	Unknown uint64 `json:"unknown"`
}

// maxOpen bounds the releases whose outcome is waited for; the oldest are given up.
const maxOpen = 1 << 20

// outcomes pairs releases with what became of them.
type outcomes struct {
	open  map[string]bool // ids of releases without an outcome
	order []string        // the oldest first, closed ones too
	given uint64          // up, with no outcome so far
	n     Releases
}

func newOutcomes() *outcomes { return &outcomes{open: map[string]bool{}} }

// take follows one record. An outcome of what was never authorised says that a secret
// left without a record.
func (o *outcomes) take(line []byte) error {
	var e struct {
		Seq    uint64 `json:"seq"`
		Kind   string `json:"kind"`
		Record string `json:"record"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	switch e.Kind {
	case auditlog.KindRelease:
		o.n.Authorised++
		o.add(e.Record)
		return nil
	case auditlog.KindDelivered:
		o.n.Delivered++
	case auditlog.KindUndelivered:
		o.n.Undelivered++
	default:
		return nil
	}
	switch {
	case o.open[e.Record]:
		delete(o.open, e.Record)
	case o.given > 0:
		o.given-- // one of those
	default:
		return fmt.Errorf("record %d is the outcome of %.64q, which was not authorised before", e.Seq, e.Record)
	}
	return nil
}

func (o *outcomes) add(id string) {
	if len(o.order) == maxOpen {
		if o.open[o.order[0]] {
			delete(o.open, o.order[0])
			o.given++
		}
		o.order = o.order[1:]
	}
	o.open[id] = true
	o.order = append(o.order, id)
}

func (o *outcomes) releases() Releases {
	o.n.Unknown = uint64(len(o.open)) + o.given
	return o.n
}
