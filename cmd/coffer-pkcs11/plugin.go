//go:build cgo

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/cofferproject/coffer/api/pluginpb"
)

const (
	maxPlain = 4 << 10
	maxAAD   = 4 << 10
)

// plugin answers wrap-key: POST wraps a key of an administrator's, GET gives it back.
// The query's aad, in hex, is additional data.
type plugin struct {
	pluginpb.UnimplementedKbsPluginServer
	token *token
}

func refuse(status int32, format string, args ...any) (*pluginpb.PluginResponse, error) {
	return &pluginpb.PluginResponse{StatusCode: status, Body: fmt.Appendf(nil, format, args...)}, nil
}

// Handle implements KbsPlugin.
func (p *plugin) Handle(_ context.Context, r *pluginpb.PluginRequest) (*pluginpb.PluginResponse, error) {
	if !slices.Equal(r.GetPath(), []string{"wrap-key"}) {
		return refuse(http.StatusNotFound, "no such path")
	}
	for k := range r.GetQuery() {
		if k != "aad" {
			return refuse(http.StatusBadRequest, "query: %.40q is not aad", k)
		}
	}
	aad, err := hex.DecodeString(r.GetQuery()["aad"])
	if err != nil || len(aad) > maxAAD {
		return refuse(http.StatusBadRequest, "aad is not hex of at most %d bytes", maxAAD)
	}
	if n := len(r.GetBody()); n == 0 || n > maxPlain {
		return refuse(http.StatusBadRequest, "a body of %d bytes, from 1 to %d", n, maxPlain)
	}
	var out []byte
	switch r.GetMethod() {
	case http.MethodPost:
		out, err = p.token.wrap(r.GetBody(), aad)
	case http.MethodGet:
		out, err = p.token.unwrap(r.GetBody(), aad)
	default:
		return refuse(http.StatusMethodNotAllowed, "GET or POST")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer-pkcs11:", r.GetMethod(), "wrap-key:", err)
		return refuse(http.StatusUnprocessableEntity, "the security module refuses: %v", err)
	}
	return &pluginpb.PluginResponse{StatusCode: http.StatusOK, Body: out, ContentType: "application/octet-stream"}, nil
}

// ValidateAuth implements KbsPlugin: an administrator wraps, a guest unwraps.
func (p *plugin) ValidateAuth(_ context.Context, r *pluginpb.ValidateAuthRequest) (*pluginpb.ValidateAuthResponse, error) {
	return &pluginpb.ValidateAuthResponse{RequiresAdminAuth: r.GetMethod() != http.MethodGet}, nil
}

// NeedsEncryption implements KbsPlugin.
func (p *plugin) NeedsEncryption(_ context.Context, r *pluginpb.NeedsEncryptionRequest) (*pluginpb.NeedsEncryptionResponse, error) {
	return &pluginpb.NeedsEncryptionResponse{RequiresPayloadEncryption: r.GetMethod() == http.MethodGet}, nil
}
