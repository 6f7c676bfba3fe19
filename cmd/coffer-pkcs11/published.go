//go:build cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/cofferproject/coffer/api/pluginpb"
	"github.com/cofferproject/coffer/api/resource"
)

// published is the published pkcs11 plugin (shared facts: trustee section 3.4): wrap-key
// with RSA-OAEP, and secrets that are objects of the token.
type published struct {
	pluginpb.UnimplementedKbsPluginServer
	token   *token
	key     *rsaKey // nil: no wrap-key
	objects bool
}

// Handle implements KbsPlugin.
func (p *published) Handle(_ context.Context, r *pluginpb.PluginRequest) (*pluginpb.PluginResponse, error) {
	path := r.GetPath()
	switch {
	case len(r.GetQuery()) > 0:
		return refuse(http.StatusBadRequest, "there is no query")
	case slices.Equal(path, []string{"wrap-key"}) && p.key != nil:
		return p.wrapKey(r.GetMethod(), r.GetBody())
	case len(path) == 4 && path[0] == resource.PluginResource && p.objects:
		u, err := resource.New(path[1], path[2], path[3])
		if err != nil {
			return refuse(http.StatusBadRequest, "%v", err)
		}
		return p.object(r.GetMethod(), u.Name(), r.GetBody())
	}
	return refuse(http.StatusNotFound, "no such path")
}

func (p *published) wrapKey(method string, body []byte) (*pluginpb.PluginResponse, error) {
	if n := len(body); n == 0 || n > maxPlain {
		return refuse(http.StatusBadRequest, "a body of %d bytes, from 1 to %d", n, maxPlain)
	}
	switch method {
	case http.MethodPost:
		return answer(method, "wrap-key")(p.key.wrap(body))
	case http.MethodGet:
		return answer(method, "wrap-key")(p.key.unwrap(body))
	}
	return refuse(http.StatusMethodNotAllowed, "GET or POST")
}

func (p *published) object(method, name string, body []byte) (*pluginpb.PluginResponse, error) {
	switch method {
	case http.MethodGet:
		return answer(method, name)(p.token.readObject(name))
	case http.MethodPost:
		return answer(method, name)(nil, p.token.writeObject(name, body))
	case http.MethodDelete:
		return answer(method, name)(nil, p.token.deleteObject(name))
	}
	return refuse(http.StatusMethodNotAllowed, "GET, POST or DELETE")
}

func answer(method, what string) func([]byte, error) (*pluginpb.PluginResponse, error) {
	return func(out []byte, err error) (*pluginpb.PluginResponse, error) {
		switch {
		case errors.Is(err, errNoObject):
			return refuse(http.StatusNotFound, "%v", err)
		case err != nil:
			fmt.Fprintf(os.Stderr, "coffer-pkcs11: %s %s: %v\n", method, what, err)
			return refuse(http.StatusUnprocessableEntity, "the security module refuses: %v", err)
		}
		return &pluginpb.PluginResponse{StatusCode: http.StatusOK, Body: out, ContentType: "application/octet-stream"}, nil
	}
}

// ValidateAuth implements KbsPlugin: a guest reads and unwraps, all else is an
// administrator's.
func (p *published) ValidateAuth(_ context.Context, r *pluginpb.ValidateAuthRequest) (*pluginpb.ValidateAuthResponse, error) {
	return &pluginpb.ValidateAuthResponse{RequiresAdminAuth: r.GetMethod() != http.MethodGet}, nil
}

// NeedsEncryption implements KbsPlugin.
func (p *published) NeedsEncryption(_ context.Context, r *pluginpb.NeedsEncryptionRequest) (*pluginpb.NeedsEncryptionResponse, error) {
	return &pluginpb.NeedsEncryptionResponse{RequiresPayloadEncryption: r.GetMethod() == http.MethodGet}, nil
}
