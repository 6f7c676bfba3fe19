package server

import (
	"context"
	"errors"
	"time"

	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/store"
)

// housekeeping forgets what has ended and renews the certificate in time.
func (s *Server) housekeeping(ctx context.Context) {
	defer close(s.tasks)
	sweep, renew, checkpoint := time.NewTicker(30*time.Second), time.NewTicker(24*time.Hour), time.NewTicker(s.checkpointEvery())
	refresh := time.NewTicker(refreshEvery)
	defer sweep.Stop()
	defer checkpoint.Stop()
	defer refresh.Stop()
	defer renew.Stop()
	if err := s.checkpoints.Write(ctx); err != nil { // so that witnesses know the start
		s.cfg.Log.Error("writing the first checkpoint failed", "error", err)
	}
	// At once, too: a process that is replaced every day would never come to it.
	if err := s.renew(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("renewing keys failed", "error", err)
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			for n := sweepBatch; n == sweepBatch && err == nil; {
				n, err = s.sessions.Sweep(ctx, sweepBatch)
			}
			err = errors.Join(err, s.purge(ctx), audit.Sweep(ctx, s.store))
		case <-refresh.C:
			err = errors.Join(s.shelf.Refresh(ctx), s.tokens.Refresh(ctx), s.tlsFiles(ctx))
			if errors.Is(err, store.ErrUnavailable) {
				err = nil // the store has said so itself
			}
		case <-renew.C:
			err = s.renew(ctx)
		case <-checkpoint.C:
			err = s.checkpoints.Write(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("housekeeping failed", "error", err)
		}
	}
}

// renew renews certificates and keys in time, and forgets credentials that have ended.
func (s *Server) renew(ctx context.Context) error {
	_, err := s.credentials.Sweep(ctx)
	return errors.Join(err, s.renewTLS(ctx), s.renewTokenKeys(ctx), s.renewIdentities(ctx))
}

const sweepBatch = 1000

// refreshEvery is how late a replica may learn what another has imported.
const refreshEvery = 2 * time.Second
