package server

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/witness"
)

// Audit says who witnesses the audit log.
type Audit struct {
	// Witnesses get every signed checkpoint.
	Witnesses []witness.Target
	// WitnessRequired is the number of checkpoints that a witness may leave
	// unacknowledged before nothing is released; 0: any.
	WitnessRequired int
	// CheckpointEvery is how often a log that has grown is signed; 0: 5 minutes.
	CheckpointEvery time.Duration
	// InStore keeps the log with everything else, in the store, and not in files of the
	// state folder.
	InStore bool
}

const (
	defaultCheckpointEvery = 5 * time.Minute
	leastCheckpointEvery   = 100 * time.Millisecond
)

func (s *Server) checkpointEvery() time.Duration {
	d := defaultCheckpointEvery
	if every := s.cfg.Audit.CheckpointEvery; every != 0 {
		d = max(every, leastCheckpointEvery)
	}
	if s.cfg.Audit.InStore {
		d = min(d, audit.SignAgain/2) // a tick may come a little before its hour
	}
	return d
}

// openAudit opens the log where it is to be.
func (s *Server) openAudit() (*audit.Log, error) {
	c := audit.Config{Now: s.cfg.Now, Observe: s.metrics.Audited, Lost: s.metrics.Lost}
	if !s.cfg.Audit.InStore {
		c.Dir = filepath.Join(s.cfg.State, "audit")
		return audit.Open(c)
	}
	c.Store = s.store
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	c.Host = host
	return audit.Open(c)
}

// openWitnesses starts what brings checkpoints elsewhere.
func (s *Server) openWitnesses() (err error) {
	s.witnesses, err = witness.New(witness.Config{
		Targets: s.cfg.Audit.Witnesses, Required: s.cfg.Audit.WitnessRequired, Log: s.cfg.Log, Failed: s.metrics.WitnessFailed,
	})
	if err != nil {
		return err
	}
	s.checkpoints.Publish = s.witnesses.Publish
	s.metrics.Gauge("audit_witness_behind", "Checkpoints that the witness furthest behind has not acknowledged.", func() float64 { return float64(s.witnesses.Behind()) })
	return nil
}

// closedContext has ended: nothing is waited for.
var closedContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
