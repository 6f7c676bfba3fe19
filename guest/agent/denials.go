package agent

import (
	"crypto/rand"
	"encoding/hex"
	"sync"

	"github.com/cofferproject/coffer/api/denial"
)

// maxDenials is how many full denials the guest remembers; a host that provokes
// more only loses the oldest.
const maxDenials = 256

// denialLog keeps the whole of recent denials inside the TEE: the wire carries
// their public form and the record id.
type denialLog struct {
	mu   sync.Mutex
	ring []denial.Denial
	next int
}

// record gives d an id and keeps a copy. A denial of the trustee's keeps its
// own, under which its owner finds the whole of it.
func (l *denialLog) record(d *denial.Denial) {
	if d.RecordID == "" {
		var id [8]byte
		_, _ = rand.Read(id[:]) // never fails
		d.RecordID = hex.EncodeToString(id[:])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < maxDenials {
		l.ring = append(l.ring, *d)
		return
	}
	l.ring[l.next] = *d
	l.next = (l.next + 1) % maxDenials
}

// Denials lists the recent denials, the oldest first. It is for the owner's eyes.
func (s *Server) Denials() []denial.Denial {
	s.denials.mu.Lock()
	defer s.denials.mu.Unlock()
	r := s.denials.ring
	return append(append([]denial.Denial(nil), r[s.denials.next:]...), r[:s.denials.next]...)
}
