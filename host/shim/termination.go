package shim

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// terminationFile recognises the kubelet's file for a container's termination
// message, .../pods/UID/containers/NAME/FILE, at the one place where the guest has it.
func terminationFile(c *podpolicy.Container, m *specs.Mount) (string, bool) {
	source := filepath.Clean(m.Source)
	parts := strings.Split(source, "/")
	n := len(parts)
	if filepath.Clean(m.Destination) == c.TerminationPath() && n >= 5 && parts[n-3] == "containers" && parts[n-5] == "pods" {
		return source, true
	}
	return "", false
}

// maxTermination is the kubelet's bound of a termination message.
const maxTermination = 4096

// terminationMessage brings the container's last words to where the kubelet reads
// them. The policy may forbid it: then there are none.
func (s *Service) terminationMessage(ctx context.Context, c *container, pod *pod) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, err := pod.agent.GetDiagnosticData(ctx, &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: c.id})
	if err != nil {
		s.log.Info("no termination message", "task", c.id, "error", err)
		return
	}
	text := []byte(d.GetData())
	if err := os.WriteFile(c.termination, text[:min(len(text), maxTermination)], 0o666); err != nil {
		s.log.Warn("writing the termination message", "task", c.id, "error", err)
	}
}
