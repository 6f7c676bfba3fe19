package restapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/svid"
)

const identityPrefix = "/coffer/identity"

// serveIdentity gives the pod's SPIFFE documents as JSON (api/svid), a certificate with
// its key. Which names there are is for the key holder to say, and then for the trustee.
func serveIdentity(w http.ResponseWriter, r *http.Request, g getter) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	uri, err := identityURI(r.URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	rsp, err := g.GetResource(ctx, uri.String())
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpCode(err))
		return
	}
	b := rsp.GetResource()
	defer clear(b)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // the workload hung up
}

// identityURI gives the key holder's reference. The query is written anew from what was
// understood of it, so that both read the same.
func identityURI(u *url.URL) (*resource.URI, error) {
	// The escaped path, so that nothing is a slash that was not sent as one.
	uri, err := resource.Parse("kbs+" + svid.Plugin + "://" + strings.TrimPrefix(u.EscapedPath(), identityPrefix))
	if err != nil {
		return nil, err
	}
	if len(uri.Path) != 2 || uri.Path[0] != svid.KindX509 && uri.Path[0] != svid.KindJWT {
		return nil, fmt.Errorf("want %s/%s/NAME or %s/%s/NAME?%s=A", identityPrefix, svid.KindX509, identityPrefix, svid.KindJWT, svid.QueryAudience)
	}
	if err := svid.CheckName(uri.Path[1]); err != nil {
		return nil, err
	}
	if uri.Path[0] == svid.KindX509 {
		if u.RawQuery != "" {
			return nil, errors.New("a certificate has no query")
		}
		return uri, nil
	}
	audiences, err := svid.ParseAudiences(u.RawQuery)
	if err != nil {
		return nil, err
	}
	uri.Query = url.Values{svid.QueryAudience: audiences}.Encode()
	return uri, nil
}
