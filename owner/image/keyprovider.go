package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	pb "github.com/containers/ocicrypt/utils/keyprovider"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guest "github.com/cofferproject/coffer/image/ocicrypt"
)

// KeyProvider serves the ocicrypt key provider protocol over gRPC, for tools such
// as skopeo (shared spec guest-components, section 4.2).
//
// Whoever can connect can use the keys: it listens on loopback only and is meant
// to run for one job.
type KeyProvider struct {
	pb.UnimplementedKeyProviderServiceServer
	Keys Keys
	// DefaultID is the key for wrap requests that name none.
	DefaultID string
	Log       *slog.Logger
}

// maxProtocolInput bounds a request's JSON, in bytes.
const maxProtocolInput = 1 << 20

// Serve answers on l until ctx ends.
func (k *KeyProvider) Serve(ctx context.Context, l net.Listener) error {
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok || !a.IP.IsLoopback() {
		return fmt.Errorf("key provider: %s is not a loopback address: whoever can connect could use the keys", l.Addr())
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(2 * maxProtocolInput))
	pb.RegisterKeyProviderServiceServer(s, k)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("key provider: %w", err)
	}
	return nil
}

type protocolInput struct {
	Op   string `json:"op"`
	Wrap struct {
		EC *struct {
			Parameters map[string][]string `json:"Parameters"`
		} `json:"ec"`
		OptsData string `json:"optsdata"`
	} `json:"keywrapparams"`
	Unwrap struct {
		Annotation string `json:"annotation"`
	} `json:"keyunwrapparams"`
}

func parseInput(r *pb.KeyProviderKeyWrapProtocolInput, op string) (*protocolInput, error) {
	b := r.GetKeyProviderKeyWrapProtocolInput()
	if len(b) > maxProtocolInput {
		return nil, fmt.Errorf("request of %d bytes: more than %d", len(b), maxProtocolInput)
	}
	var in protocolInput
	if json.Unmarshal(b, &in) != nil { // its text could quote a key
		return nil, errors.New("request is not the expected JSON")
	}
	if in.Op != op {
		return nil, fmt.Errorf("op %.40q, expected %q", in.Op, op)
	}
	return &in, nil
}

// WrapKey wraps a layer's private options. The parameter is a "::"-separated
// list: keyid=kbs:///r/t/g, keypath=FILE, algorithm=A256GCM.
func (k *KeyProvider) WrapKey(_ context.Context, r *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	in, err := parseInput(r, "keywrap")
	if err != nil {
		return nil, k.fault("wrap", err)
	}
	plbco, err := base64.StdEncoding.DecodeString(in.Wrap.OptsData)
	if err != nil || len(plbco) == 0 {
		return nil, k.fault("wrap", errors.New("optsdata is not base64"))
	}
	defer clear(plbco)
	if in.Wrap.EC == nil || len(in.Wrap.EC.Parameters[provider]) != 1 {
		return nil, k.fault("wrap", fmt.Errorf("expected one parameter for %s: the answer has room for one key", provider))
	}
	raw, err := base64.StdEncoding.DecodeString(in.Wrap.EC.Parameters[provider][0])
	if err != nil {
		return nil, k.fault("wrap", errors.New("parameter is not base64"))
	}
	id, kek, err := k.wrapKey(string(raw))
	if err != nil {
		return nil, k.fault("wrap", err)
	}
	defer clear(kek)
	packet, err := guest.Seal(id, kek, plbco)
	if err != nil {
		return nil, k.fault("wrap", err)
	}
	k.Log.Info("layer key wrapped", "key_id", id)
	return output("keywrapresults", "annotation", packet)
}

// wrapKey reads a wrap parameter.
func (k *KeyProvider) wrapKey(param string) (id string, kek []byte, err error) {
	var file string
	id = k.DefaultID
	for part := range strings.SplitSeq(param, "::") {
		key, val, _ := strings.Cut(part, "=")
		switch {
		case part == "":
		case key == "keyid":
			id = val
		case key == "keypath":
			file = val
		case key == "algorithm":
			if val != guest.WrapA256GCM {
				return "", nil, fmt.Errorf("algorithm %.40q is not supported, only %s", val, guest.WrapA256GCM)
			}
		case key == "sample" && val == "false":
		default:
			return "", nil, fmt.Errorf("parameter %.80q is not supported", part)
		}
	}
	if id == "" {
		return "", nil, errors.New("no keyid: add keyid=kbs:///repository/type/tag")
	}
	if !strings.Contains(id, "://") {
		id = "kbs:///" + strings.TrimPrefix(id, "/") // an id without scheme would be unreadable in the guest
	}
	if _, err := keyURI(id); err != nil {
		return "", nil, err
	}
	if file != "" {
		kek, err = ownKey(file)
	} else if k.Keys != nil {
		kek, err = k.Keys.KEK(id)
	} else {
		err = errors.New("no key: add keypath=FILE, or start the key provider with --key-file or --keys")
	}
	return id, kek, err
}

// ownKey reads a key file that a request names: only one that belongs to who
// runs the provider, since any local user can send requests.
func ownKey(file string) ([]byte, error) {
	if !filepath.IsAbs(file) {
		return nil, fmt.Errorf("keypath %.200q is not absolute", file)
	}
	st, err := os.Lstat(file)
	if err != nil {
		return nil, fmt.Errorf("keypath: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(sys.Uid) != os.Geteuid() || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("keypath %s: not a file of the user who runs the key provider", file)
	}
	return ReadKey(file)
}

// UnWrapKey opens an annotation packet.
func (k *KeyProvider) UnWrapKey(ctx context.Context, r *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	in, err := parseInput(r, "keyunwrap")
	if err != nil {
		return nil, k.fault("unwrap", err)
	}
	packet, err := base64.StdEncoding.DecodeString(in.Unwrap.Annotation)
	if err != nil {
		return nil, k.fault("unwrap", errors.New("annotation is not base64"))
	}
	if k.Keys == nil {
		return nil, k.fault("unwrap", errors.New("no key: start the key provider with --key-file or --keys"))
	}
	plbco, err := unwrapper{k.Keys}.UnwrapKey(ctx, packet)
	if err != nil {
		return nil, k.fault("unwrap", err)
	}
	defer clear(plbco)
	k.Log.Info("layer key unwrapped")
	return output("keyunwrapresults", "optsdata", plbco)
}

func (k *KeyProvider) fault(op string, err error) error {
	k.Log.Warn("key provider request failed", "op", op, "error", err)
	return status.Error(codes.InvalidArgument, "coffer key provider: "+err.Error())
}

// output writes the result's bytes as an array of numbers: the published Rust
// tools demand it, Go's decoder takes both forms.
func output(result, member string, b []byte) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	nums := make([]int, len(b))
	for i, v := range b {
		nums[i] = int(v)
	}
	out, err := json.Marshal(map[string]any{result: map[string]any{member: nums}})
	if err != nil {
		return nil, err
	}
	return &pb.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: out}, nil
}
