package adminapi

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/release"
)

func (c *call) putResource() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	defer clear(c.body)
	o, err := putOptions(c.r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	o.Actor = c.actor
	if err := c.mayChange(name, trusteeapi.MethodPut); err != nil {
		return nil, err
	}
	return c.cfg.Gate.Put(c.ctx(), c.ns(), name, c.body, *o)
}

// putOptions reads the query of a PUT strictly.
func putOptions(raw string) (*release.PutOptions, error) {
	bad := func(detail string) (*release.PutOptions, error) {
		return nil, httpio.BadRequest(httpio.TypeSerde, detail)
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return bad("query is malformed")
	}
	o := &release.PutOptions{}
	for k, v := range q {
		if k != trusteeapi.QueryLabel && len(v) != 1 {
			return bad(k + " is given more than once")
		}
		switch k {
		case trusteeapi.QueryExpires:
			o.Expires, err = time.Parse(time.RFC3339, v[0])
		case trusteeapi.QueryExpirePrevious:
			o.ExpirePrevious, err = time.Parse(time.RFC3339, v[0])
		case trusteeapi.QueryIfVersion:
			var n uint64
			n, err = strconv.ParseUint(v[0], 10, 64)
			o.IfVersion = &n
		case trusteeapi.QueryLabel:
			o.Labels = map[string]string{}
			for _, l := range v {
				name, value, ok := strings.Cut(l, "=")
				if _, twice := o.Labels[name]; !ok || twice {
					return bad("label is not name=value, or is given twice")
				}
				o.Labels[name] = value
			}
		default:
			return bad("unknown parameter " + strconv.Quote(short(k)))
		}
		if err != nil {
			return bad(k + " is malformed")
		}
	}
	return o, nil
}

func (c *call) history() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	return c.cfg.Gate.History(c.ctx(), c.ns(), name)
}

// changeVersion is one change of one version; both are in the path, so that the
// audit record names them.
func (c *call) changeVersion() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	version, err := strconv.ParseUint(c.r.PathValue("version"), 10, 64)
	if err != nil || version == 0 {
		return nil, httpio.BadRequest(httpio.TypePath, "version is not a positive number")
	}
	in, err := decode[trusteeapi.VersionChange](c)
	if err != nil {
		return nil, err
	}
	change := c.r.PathValue("change")
	if !in.Expires.IsZero() && change != trusteeapi.ChangeExpiry {
		return nil, httpio.BadRequest(httpio.TypeSerde, "expires is for "+trusteeapi.ChangeExpiry+" alone")
	}
	method := trusteeapi.MethodPut
	if change == trusteeapi.ChangeDelete || change == trusteeapi.ChangeDestroy {
		method = trusteeapi.MethodDelete
	}
	if err := c.mayChange(name, method); err != nil {
		return nil, err
	}
	if change == trusteeapi.ChangeRollback {
		return c.cfg.Gate.Rollback(c.ctx(), c.ns(), name, version, c.actor)
	}
	return c.cfg.Gate.Change(c.ctx(), c.ns(), name, version, change, in.Expires)
}

// mayChange asks the resource policies.
func (c *call) mayChange(name, method string) error {
	return c.cfg.Gate.MayChange(c.ctx(), c.ns(), name, method, c.actor, c.r.RemoteAddr)
}
