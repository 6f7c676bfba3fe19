package server

import (
	"context"
	"errors"
)

// Wait gives the error by which serving ended, or nil when ctx ends first.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case err := <-s.served:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Close lets requests in progress end, for as long as ctx allows, and closes the
// state.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	s.ready.Drain()
	s.gate.Drain()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	err = errors.Join(err, s.as.close(ctx), s.rvps.close(ctx))
	<-s.tasks
	s.fetcher.Wait()
	s.remote.wait()
	s.providers.Wait()
	if cerr := s.checkpoints.Write(context.WithoutCancel(ctx)); cerr != nil {
		s.cfg.Log.Error("writing the last checkpoint failed", "error", cerr)
	}
	s.witnesses.Close(ctx)
	s.tracer.Close(ctx)
	return errors.Join(err, s.closeState())
}

func (s *Server) closeState() error {
	var errs []error
	if s.opsHTTP != nil {
		errs = append(errs, s.opsHTTP.Close()) // with its connections
	}
	if s.ln != nil {
		s.ln.Close() // again after a shutdown, harmless
	}
	errs = append(errs, s.remote.close())
	for _, v := range []*service{s.as, s.rvps} {
		if v != nil {
			v.ln.Close()
		}
	}
	if s.witnesses != nil {
		s.witnesses.Close(closedContext)
	}
	s.tracer.Close(closedContext)
	s.plugins.Close()
	s.secrets.Close()
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
