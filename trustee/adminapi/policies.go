package adminapi

import (
	"strconv"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/rejudge"
)

// version reads the query version=, 0 where there is none.
func (c *call) version() (uint64, error) {
	v := c.r.URL.Query().Get("version")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n == 0 {
		return 0, httpio.BadRequest(httpio.TypeSerde, "version is not a positive number")
	}
	return n, nil
}

func (c *call) resourcePolicy() (any, error) {
	version, err := c.version()
	if err != nil {
		return nil, err
	}
	return c.cfg.Policies.Get(c.ctx(), c.ns(), c.r.PathValue("name"), version)
}

func (c *call) putResourcePolicy() (any, error) {
	p, err := decode[trusteeapi.ResourcePolicy](c)
	if err != nil {
		return nil, err
	}
	if p.Name != c.r.PathValue("name") {
		return nil, httpio.BadRequest(httpio.TypeSerde, "name is not the path's")
	}
	return c.cfg.Policies.Put(c.ctx(), c.ns(), *p, c.actor)
}

func (c *call) chooseAppraisal() (any, error) {
	p, err := decode[trusteeapi.AppraisalPolicy](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.SetAppraisalPolicy(c.ctx(), c.ns(), p.ID)
}

func (c *call) testPolicy() (any, error) {
	t, err := decode[trusteeapi.PolicyTest](c)
	if err != nil {
		return nil, err
	}
	return rejudge.Run(c.ctx(), rejudge.Config{Registry: c.cfg.Registry, Book: c.cfg.Book, Now: c.cfg.Now}, c.ns(), t)
}
