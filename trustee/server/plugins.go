package server

import (
	"context"

	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/provisioner"
	"github.com/cofferproject/coffer/trustee/release"
)

// inside are the plugins of this process; nil: not served.
type inside struct {
	provisioner *provisioner.Plugin
	nebula      *nebulaca.CA
}

func (s *Server) pluginsInside(ctx context.Context, gate *release.Gate) (out inside, err error) {
	if n := s.cfg.ProvisionerKeyLength; n != 0 {
		if out.provisioner, err = provisioner.New(gate, n); err != nil {
			return out, err
		}
	}
	if s.cfg.Nebula != nil {
		out.nebula, err = nebulaca.New(ctx, *s.cfg.Nebula, s.store, s.kek, s.cfg.Now)
	}
	return out, err
}
