package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
)

// What the published contract has and this guest does not do: it would change a
// running TEE from outside (memory, CPUs, swap, clock, entropy, firewall, policy)
// or belongs to a shared file system that does not exist here. The Enforcer
// denies each before it gets here; these make a mistake there harmless.

var errUnserved = status.Error(codes.Unimplemented, "not implemented by this agent")

// UpdateEphemeralMounts is not served.
func (s *Server) UpdateEphemeralMounts(context.Context, *agentpb.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// RemoveStaleVirtiofsShareMounts is not served.
func (s *Server) RemoveStaleVirtiofsShareMounts(context.Context, *agentpb.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// GetIPTables is not served.
func (s *Server) GetIPTables(context.Context, *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	return nil, errUnserved
}

// SetIPTables is not served.
func (s *Server) SetIPTables(context.Context, *agentpb.SetIPTablesRequest) (*agentpb.SetIPTablesResponse, error) {
	return nil, errUnserved
}

// GetMetrics is not served.
func (s *Server) GetMetrics(context.Context, *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
	return nil, errUnserved
}

// MemAgentMemcgSet is not served.
func (s *Server) MemAgentMemcgSet(context.Context, *agentpb.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// MemAgentCompactSet is not served.
func (s *Server) MemAgentCompactSet(context.Context, *agentpb.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// OnlineCPUMem is not served.
func (s *Server) OnlineCPUMem(context.Context, *agentpb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// ReseedRandomDev is not served.
func (s *Server) ReseedRandomDev(context.Context, *agentpb.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// MemHotplugByProbe is not served.
func (s *Server) MemHotplugByProbe(context.Context, *agentpb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// SetGuestDateTime is not served.
func (s *Server) SetGuestDateTime(context.Context, *agentpb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// AddSwap is not served.
func (s *Server) AddSwap(context.Context, *agentpb.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// AddSwapPath is not served.
func (s *Server) AddSwapPath(context.Context, *agentpb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// ResizeVolume is not served.
func (s *Server) ResizeVolume(context.Context, *agentpb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}

// SetPolicy is not served.
func (s *Server) SetPolicy(context.Context, *agentpb.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, errUnserved
}
