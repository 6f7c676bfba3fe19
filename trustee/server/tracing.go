package server

import "github.com/cofferproject/coffer/trustee/trace"

// openTracer starts to trace requests, if a collector is configured. Only then a call
// to the store passes through the tracer.
func (s *Server) openTracer() (err error) {
	c := s.cfg.Tracing
	c.Version, c.Log, c.Dropped = Version(), s.cfg.Log, s.metrics.SpansDropped
	if s.tracer, err = trace.New(c); err != nil || s.tracer == nil {
		return err
	}
	s.store = trace.Store(s.store)
	return nil
}
