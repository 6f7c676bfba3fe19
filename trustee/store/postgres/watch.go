package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// watchEvery is how often the database is asked whether it is there. Once it is
// known not to be, nobody waits for it any more.
const watchEvery = 500 * time.Millisecond

// Healthy implements store.Health.
func (s *Store) Healthy() error {
	if why := s.down.Load(); why != nil {
		return unavailable(errors.New(*why))
	}
	return nil
}

// watch asks on a connection of its own, so that a pool in full use is not taken
// for a database that has gone.
func (s *Store) watch(ctx context.Context) {
	defer close(s.watched)
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var since time.Time
	probe := &prober{s: s}
	defer probe.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := probe.ask(ctx)
		switch now := time.Now(); {
		case ctx.Err() != nil:
			return
		case err == nil:
			if since = (time.Time{}); s.down.Swap(nil) != nil {
				s.log.Info("database is there again")
			}
		case since.IsZero():
			since = now
		case now.Sub(since) >= s.patience:
			if why := err.Error(); s.down.Swap(&why) == nil {
				s.log.Error("database is unavailable", "error", err)
			}
		}
	}
}

type prober struct {
	s    *Store
	conn *pgx.Conn
}

// ask finds out whether the database would take a change. One that is being shut
// down or is out of disk still answers; that shows in the calls themselves.
func (p *prober) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if p.conn == nil {
		c, err := pgx.ConnectConfig(ctx, p.s.pool.Config().ConnConfig)
		if err != nil {
			return err
		}
		p.conn = c
	}
	if err := p.conn.Ping(ctx); err != nil {
		p.close()
		return err
	}
	return nil
}

func (p *prober) close() {
	if p.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.conn.Close(ctx)
	p.conn = nil
}
