// Package pkcs11 has a key wrapped by a hardware security module, through coffer-pkcs11,
// which alone loads the module's library.
//
// Trust zone: trustee. Who owns the socket's folder is trusted with the key.
package pkcs11

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cofferproject/coffer/api/pluginpb"
	"github.com/cofferproject/coffer/trustee/keyservice"
)

const (
	maxMessage = 256 << 10
	perCall    = 10 * time.Second
)

var label = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

type service struct {
	key    string
	socket string
}

// Open takes /PATH/OF/SOCKET?key=LABEL: where coffer-pkcs11 serves, and the label of its
// key, which is the key's name from then on.
func Open(_ context.Context, spec string) (keyservice.Service, error) {
	u, err := url.Parse(spec)
	if err != nil || u.Scheme != "" || u.Host != "" || !filepath.IsAbs(u.Path) {
		return nil, errors.New("write /PATH/OF/SOCKET?key=LABEL")
	}
	q := u.Query()
	if len(q) != 1 || len(q["key"]) != 1 || !label.MatchString(q.Get("key")) {
		return nil, errors.New("the query is key=LABEL and nothing else")
	}
	return &service{key: q.Get("key"), socket: u.Path}, nil
}

// ID implements keyservice.Service.
func (s *service) ID() string { return "pkcs11:" + s.key }

// Wrap implements keyservice.Service.
func (s *service) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	return s.call(ctx, http.MethodPost, key, aad)
}

// Unwrap implements keyservice.Service.
func (s *service) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	return s.call(ctx, http.MethodGet, wrapped, aad)
}

func (s *service) call(ctx context.Context, method string, body, aad []byte) ([]byte, error) {
	if err := s.mine(); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, perCall)
	defer cancel()
	r, err := pluginpb.NewKbsPluginClient(conn).Handle(ctx, &pluginpb.PluginRequest{
		Method: method, Path: []string{"wrap-key"}, Query: map[string]string{"aad": hex.EncodeToString(aad)}, Body: body,
	})
	if err != nil {
		return nil, fmt.Errorf("coffer-pkcs11: %w", err)
	}
	if r.GetStatusCode() != http.StatusOK {
		return nil, fmt.Errorf("coffer-pkcs11: status %d: %.300q", r.GetStatusCode(), r.GetBody())
	}
	if len(r.GetBody()) == 0 {
		return nil, errors.New("coffer-pkcs11: an empty answer")
	}
	return r.GetBody(), nil
}

// mine refuses a socket that others can open: they could have the envelope key
// unwrapped.
func (s *service) mine() error {
	fi, err := os.Lstat(s.socket)
	switch {
	case err != nil:
		return fmt.Errorf("coffer-pkcs11: %w", err)
	case fi.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("coffer-pkcs11: %s is no socket", s.socket)
	case fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("coffer-pkcs11: %s can be opened by others (mode %04o)", s.socket, fi.Mode().Perm())
	}
	return nil
}
