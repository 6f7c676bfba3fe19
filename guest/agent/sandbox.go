package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/proc/seccomp"
	"golang.org/x/sys/unix"
)

// etcDir holds the pod's resolv.conf, hosts and hostname, out of CopyFile's reach.
const etcDir = "/run/coffer/etc"

// CreateSandbox prepares what the pod's containers share.
func (s *Server) CreateSandbox(_ context.Context, req *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	p := s.opt.Policy
	if err := emptyDirectory(podpolicy.RootDir); err != nil {
		return nil, fmt.Errorf("preparing the sandbox: %w", err)
	}
	for _, d := range []string{podpolicy.SharedDir, podpolicy.LocalDir, podpolicy.EphemeralDir, podpolicy.ShmDir, etcDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("preparing the sandbox: %w", err)
		}
	}
	if p.Sandbox.ShmBytes > 0 {
		if err := mountTmpfs(podpolicy.ShmDir, 0o1777, p.Sandbox.ShmBytes); err != nil {
			return nil, fmt.Errorf("preparing the sandbox: shared memory: %w", err)
		}
	}
	if err := s.opt.Runtime.Setup(p.Hostname, p.Sandbox.Sysctls, p.Sandbox.SharePIDs); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dns = req.GetDns()
	// Now already, for the guest's own name look-ups.
	if err := s.writeEtc(); err != nil {
		return nil, err
	}
	s.ahead.begin(p)
	return &emptypb.Empty{}, nil
}

// namesOnce makes the pod's files of names again before its first container:
// then the network is final.
func (s *Server) namesOnce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.named {
		return nil
	}
	if err := s.writeEtc(); err != nil {
		return err
	}
	s.named = true
	return nil
}

// writeEtc makes the pod's files of names. The Enforcer has held the DNS lines to
// their grammar.
func (s *Server) writeEtc() error {
	host := s.opt.Policy.Hostname
	if host == "" {
		host = "localhost"
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	s.netMu.Lock()
	for _, p := range s.podAddrs {
		hosts += p.Addr().String() + "\t" + host + "\n"
	}
	s.netMu.Unlock()
	for _, a := range s.opt.Policy.Sandbox.Hosts {
		hosts += a.IP + "\t" + strings.Join(a.Names, "\t") + "\n"
	}
	resolv := ""
	for _, line := range s.dns {
		resolv += strings.TrimSpace(line) + "\n"
	}
	for name, content := range map[string]string{"hosts": hosts, "hostname": host + "\n", "resolv.conf": resolv} {
		if err := os.WriteFile(filepath.Join(etcDir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("preparing the sandbox: %w", err)
		}
	}
	return nil
}

// DestroySandbox ends every container and then the guest. Its answer says that all of
// the volumes is on their disks: the host may end the guest at once.
func (s *Server) DestroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	err := s.opt.Runtime.KillAll(ctx)
	cancel()
	if err != nil {
		s.log.Error("ending the containers", "err", err)
	}
	// What somebody may still be writing to is no state that there ever was.
	if s.opt.Disks != nil && err == nil {
		err = s.opt.Disks.Close()
	}
	// The answer gets out first.
	time.AfterFunc(200*time.Millisecond, s.opt.PowerOff)
	if err != nil {
		return nil, fmt.Errorf("not all of the pod's volumes were saved: %w", err)
	}
	return &emptypb.Empty{}, nil
}

// endTime bounds how long killed processes take to end.
const endTime = 20 * time.Second

// GetGuestDetails says what this agent is.
func (s *Server) GetGuestDetails(_ context.Context, req *agentpb.GuestDetailsRequest) (*agentpb.GuestDetailsResponse, error) {
	out := &agentpb.GuestDetailsResponse{AgentDetails: &agentpb.AgentDetails{
		Version:         Version,
		InitDaemon:      os.Getpid() == 1,
		StorageHandlers: []string{"ephemeral", "local", "image_guest_pull", "blk"},
		SupportsSeccomp: seccomp.Supported(),
		ExtraFeatures:   []string{"agent-policy", "seccomp"},
	}}
	if req.GetMemBlockSize() {
		if b, err := os.ReadFile("/sys/devices/system/memory/block_size_bytes"); err == nil {
			out.MemBlockSizeBytes, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64)
		}
	}
	return out, nil
}

// GetOOMEvent waits until a container runs out of memory.
func (s *Server) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	select {
	case id := <-s.oom:
		return &agentpb.OOMEvent{ContainerId: id}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// GetVolumeStats tells how full a pod volume is.
func (s *Server) GetVolumeStats(ctx context.Context, _ *agentpb.VolumeStatsRequest) (*agentpb.VolumeStatsResponse, error) {
	g := grantOf(ctx)
	if len(g.Volumes) != 1 {
		return nil, invalid("no volume")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(g.Volumes[0].Path(), &st); err != nil {
		return nil, fmt.Errorf("reading volume's usage: %w", err)
	}
	size := uint64(st.Bsize)
	return &agentpb.VolumeStatsResponse{
		Usage: []*agentpb.VolumeUsage{
			{Unit: agentpb.VolumeUsage_BYTES, Available: st.Bavail * size, Total: st.Blocks * size, Used: (st.Blocks - st.Bfree) * size},
			{Unit: agentpb.VolumeUsage_INODES, Available: st.Ffree, Total: st.Files, Used: st.Files - st.Ffree},
		},
		VolumeCondition: &agentpb.VolumeCondition{},
	}, nil
}

// openVolume makes an empty-dir volume, once for the pod.
func (s *Server) openVolume(ctx context.Context, v *podpolicy.Volume) error {
	if v.Kind == podpolicy.VolumeDisk {
		return s.openDisk(ctx, v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Kind == podpolicy.VolumeServiceAccount {
		// A cluster may give the pod nothing, and renews what it gives.
		if err := os.MkdirAll(v.Path(), 0o755); err != nil {
			return fmt.Errorf("making volume %s: %w", v.Name, err)
		}
		return nil
	}
	if v.Kind != podpolicy.VolumeEmptyDir || s.volumes[v.Name] {
		return nil
	}
	if err := os.MkdirAll(v.Path(), 0o755); err != nil {
		return fmt.Errorf("making volume %s: %w", v.Name, err)
	}
	if err := mountTmpfs(v.Path(), 0o777, v.SizeLimit); err != nil {
		return fmt.Errorf("making volume %s: %w", v.Name, err)
	}
	if err := setGroup(v); err != nil {
		return err
	}
	s.volumes[v.Name] = true
	return nil
}

// openDisk opens a volume on a disk, once for the pod. It may have to wait for the
// volume's key, and holds up nothing else meanwhile.
func (s *Server) openDisk(ctx context.Context, v *podpolicy.Volume) error {
	if s.opt.Disks == nil {
		return &denial.Denial{
			Reason: DisksUnsupported, Component: "guest-agent", Claim: "volumes[" + v.Name + "]",
			Measured: "a volume on a disk", Expected: "none", Source: "guest image",
		}
	}
	s.diskMu.Lock() // the next container waits until the volume is its group's
	defer s.diskMu.Unlock()
	if _, err := s.opt.Disks.Open(ctx, v); err != nil {
		return err
	}
	if v.Block || s.grouped[v.Name] {
		return nil
	}
	if err := setGroup(v); err != nil {
		return err
	}
	s.grouped[v.Name] = true
	return nil
}

// DisksUnsupported refuses a volume on a disk where the guest has no disks.
const DisksUnsupported denial.Reason = "volume-disk-unsupported"

// setGroup gives the volume to the pod's fsGroup.
func setGroup(v *podpolicy.Volume) error {
	if v.GID == nil {
		return nil
	}
	if err := errors.Join(unix.Chown(v.Path(), 0, int(*v.GID)), unix.Chmod(v.Path(), 0o2777)); err != nil {
		return fmt.Errorf("making volume %s: %w", v.Name, err)
	}
	return nil
}

// mountTmpfs mounts a tmpfs; size 0 is the kernel's default, half of memory.
func mountTmpfs(dir string, mode uint32, size int64) error {
	data := fmt.Sprintf("mode=%o", mode)
	if size > 0 {
		data += fmt.Sprintf(",size=%d", size)
	}
	return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data)
}

// emptyDirectory deletes what is in dir, which may be missing.
func emptyDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
