// Package agent serves the kata agent's contract (shared/spec/kata.md section 2
// and appendix A; api/agentpb) to the host, over ttrpc.
//
// Every request but Health passes the pod policy's Enforcer before a handler
// sees it, in one place (intercept); handlers act on the Enforcer's grant and the
// policy's own values, never on the request's strings. What no policy can allow
// has no handler at all.
//
// Trust zone: guest. The host is on the other end and hostile.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/container"
)

// Version is the version of the kata agent's API that is served, and Coffer's own.
const (
	GRPCVersion = "0.0.1"
	Version     = "coffer-0.1"
)

// maxCalls bounds the calls in progress; long polls count.
const maxCalls = 1024

// Images gives verified images.
type Images interface {
	// Prepare makes the image of c available: pulled by the policy's digest,
	// verified, decrypted and unpacked. The host is told what Public() string of
	// an error in its chain says, and nothing more.
	Prepare(ctx context.Context, c *podpolicy.Container) (*Image, error)
}

// Disks opens volumes on disks.
type Disks interface {
	// Open mounts the volume at its path, or opens a block volume, once, and reports
	// whether it did so now.
	Open(ctx context.Context, v *podpolicy.Volume) (bool, error)
	// Device gives the number of the device of a block volume that is open.
	Device(v *podpolicy.Volume) (uint64, error)
	// Close ends all of them, so that everything is where it outlives the guest.
	Close() error
}

// Image is an unpacked image.
type Image struct {
	Layers []string // directories, the topmost first; never written to again
}

// Options are what a Server works with.
type Options struct {
	Policy   *podpolicy.Policy // nil: nothing starts
	Enforcer *podpolicy.Enforcer
	Runtime  *container.Runtime
	Images   Images
	Disks    Disks  // nil: the guest has none
	PowerOff func() // ends the guest; called once DestroySandbox has answered
	// ShowDenials puts whole denials on the console, measured and expected values
	// included: for debug images alone, since the console is the host's.
	ShowDenials bool
	Started     func() // told of each container's start; may be nil
	Log         *slog.Logger
}

// Server implements grpc.AgentService and grpc.Health. Between New and Activate
// it answers Health only; other calls wait.
type Server struct {
	log     *slog.Logger
	active  chan struct{}
	calls   chan struct{}
	denials denialLog
	oom     chan string

	// set by Activate
	opt   Options
	ahead *ahead // opt.Images

	diskMu  sync.Mutex
	grouped map[string]bool // volumes on disks that are their group's

	netMu    sync.Mutex
	podAddrs []netip.Prefix

	mu      sync.Mutex
	volumes map[string]bool // mounted pod volumes
	dns     []string
	named   bool // hosts, hostname and resolv.conf are written
}

// New makes a Server that is not active yet.
func New(log *slog.Logger) *Server {
	return &Server{
		log: log, active: make(chan struct{}), calls: make(chan struct{}, maxCalls),
		oom: make(chan string, 64), volumes: map[string]bool{}, grouped: map[string]bool{},
	}
}

// Activate lets calls through. Once.
func (s *Server) Activate(opt Options) error {
	if opt.Enforcer == nil || opt.Runtime == nil || opt.Images == nil || opt.PowerOff == nil || opt.Log == nil {
		return errors.New("activating the agent: incomplete options")
	}
	s.ahead = &ahead{Images: opt.Images}
	opt.Images = s.ahead
	s.opt = opt
	close(s.active)
	return nil
}

// OOM records that the kernel killed a container for its memory; for
// container.Options.OOM.
func (s *Server) OOM(containerID string) {
	select {
	case s.oom <- containerID:
	default: // nobody has listened to the last 64
	}
}

// Serve answers on l until it closes.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	t, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.intercept))
	if err != nil {
		return fmt.Errorf("serving the agent: %w", err)
	}
	agentpb.RegisterAgentServiceService(t, s)
	agentpb.RegisterHealthService(t, health{s})
	if err := t.Serve(ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		return fmt.Errorf("serving the agent: %w", err)
	}
	return nil
}

type grantKey struct{}

// grantOf gives the Enforcer's yes to the call.
func grantOf(ctx context.Context) *podpolicy.Grant {
	g, _ := ctx.Value(grantKey{}).(**podpolicy.Grant)
	if g == nil || *g == nil {
		return &podpolicy.Grant{}
	}
	return *g
}

// intercept judges each request as soon as it is decoded, and ends the grant
// with the handler's outcome.
func (s *Server) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (resp any, err error) {
	if strings.HasPrefix(info.FullMethod, "/grpc.Health/") {
		return method(ctx, unmarshal)
	}
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	default:
		return nil, status.Error(codes.ResourceExhausted, "too many calls in progress")
	}
	var grant *podpolicy.Grant
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("agent call panicked", "method", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "internal error")
		}
		grant.Done(err)
		err = statusOf(err)
	}()
	return method(context.WithValue(ctx, grantKey{}, &grant), func(v any) error {
		if err := unmarshal(v); err != nil {
			return status.Error(codes.InvalidArgument, "malformed request")
		}
		m, ok := v.(proto.Message)
		if !ok {
			return status.Error(codes.Internal, "internal error")
		}
		select {
		case <-s.active:
		case <-ctx.Done():
			return ctx.Err()
		}
		g, err := s.opt.Enforcer.Authorize(m)
		if err != nil {
			return s.deny(string(m.ProtoReflect().Descriptor().Name()), err)
		}
		grant = g
		return nil
	})
}

// deny records a refusal and gives the host its public form.
func (s *Server) deny(request string, err error) error {
	d, ok := denial.As(err)
	if !ok {
		d = &denial.Denial{Reason: "refused", Component: "guest-agent", Detail: err.Error()}
	}
	s.denials.record(d)
	s.log.Warn("denied", "request", request, "reason", string(d.Reason), "claim", d.Claim, "record", d.RecordID)
	if s.opt.ShowDenials {
		s.log.Warn("denial in full", "denial", d.Error())
	}
	b, jerr := json.Marshal(d.Public())
	if jerr != nil {
		b = nil
	}
	return status.Errorf(codes.PermissionDenied, "%s is blocked by policy: %s", request, b)
}

// statusOf gives an error the code that the contract names. Its text is the
// host's to read: handlers make it of the policy's and the request's own values
// and of the kernel's error names. What others have said, registries and images,
// comes in by Images.Prepare alone, and CreateContainer does not let it through.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

type health struct{ s *Server }

// Check says SERVING once the guest has read its initdata and takes calls.
func (h health) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	st := agentpb.HealthCheckResponse_NOT_SERVING
	select {
	case <-h.s.active:
		st = agentpb.HealthCheckResponse_SERVING
	default:
	}
	return &agentpb.HealthCheckResponse{Status: st}, nil
}

// Version names the API and the agent.
func (h health) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{GrpcVersion: GRPCVersion, AgentVersion: Version}, nil
}
