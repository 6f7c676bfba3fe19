package trusteeclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// PutOptions say more about a new version of a secret; zero members say nothing.
type PutOptions struct {
	Expires        time.Time
	ExpirePrevious time.Time // when the older versions expire that would live longer
	IfVersion      *uint64   // only if that is the newest version; 0: if there is none
	Labels         map[string]string
}

func (o *PutOptions) query() url.Values {
	q := url.Values{}
	for k, t := range map[string]time.Time{trusteeapi.QueryExpires: o.Expires, trusteeapi.QueryExpirePrevious: o.ExpirePrevious} {
		if !t.IsZero() {
			q.Set(k, t.UTC().Format(time.RFC3339))
		}
	}
	if o.IfVersion != nil {
		q.Set(trusteeapi.QueryIfVersion, strconv.FormatUint(*o.IfVersion, 10))
	}
	for k, v := range o.Labels {
		q.Add(trusteeapi.QueryLabel, k+"="+v)
	}
	return q
}

// PutVersion is PutResource that says more about the new version.
func (n *Namespaced) PutVersion(ctx context.Context, name string, secret []byte, o PutOptions) (*trusteeapi.Resource, error) {
	p, err := resourcePath(name)
	if err != nil {
		return nil, err
	}
	b, err := n.c.raw(ctx, http.MethodPut, n.path+"/resources/"+p, o.query(), "application/octet-stream", secret)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Resource](b)
}

// History gives the metadata of a secret and of its versions.
func (n *Namespaced) History(ctx context.Context, name string) (*trusteeapi.History, error) {
	p, err := resourcePath(name)
	if err != nil {
		return nil, err
	}
	return get[trusteeapi.History](ctx, n.c, n.path+"/resources/"+p+"/versions", nil)
}

// ChangeVersion deletes, undeletes or destroys a version, sets its expiry (zero:
// never), or makes a new version of it.
func (n *Namespaced) ChangeVersion(ctx context.Context, name string, version uint64, change string, expires time.Time) error {
	p, err := resourcePath(name)
	if err != nil {
		return err
	}
	_, err = n.c.send(ctx, http.MethodPost, n.path+"/resources/"+p+"/versions/"+strconv.FormatUint(version, 10)+"/"+change, trusteeapi.VersionChange{Expires: expires})
	return err
}
