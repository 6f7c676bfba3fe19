package adminapi

import (
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
)

// secretStores lists the stores of a namespace that there is.
func (c *call) secretStores() (any, error) {
	if _, err := c.cfg.Registry.Namespace(c.ctx(), c.ns()); err != nil {
		return nil, err
	}
	return c.cfg.Gate.SecretStores(c.ns()), nil
}

func (c *call) mapSecret() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	m, err := decode[trusteeapi.OutsideSecret](c)
	if err != nil {
		return nil, err
	}
	if m.Name != "" && m.Name != name || m.Actor != "" || m.Binding != nil || !m.Created.Equal(time.Time{}) {
		return nil, httpio.BadRequest(httpio.TypeSerde, "name is the path's; actor, created and binding are the trustee's")
	}
	if err := c.mayChange(name, trusteeapi.MethodPut); err != nil {
		return nil, err
	}
	m.Name, m.Actor = name, c.actor
	return c.cfg.Gate.Map(c.ctx(), c.ns(), *m)
}

func (c *call) unmapSecret() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	if err := c.mayChange(name, trusteeapi.MethodDelete); err != nil {
		return nil, err
	}
	return nil, c.cfg.Gate.Unmap(c.ctx(), c.ns(), name)
}
