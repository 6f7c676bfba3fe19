package shim

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/events"

	"github.com/cofferproject/coffer/api/agentpb"
)

// watchOOM passes on which containers the guest's kernel has killed for memory. The guest
// is not the host's and may say so without an end: a container's first kill is told at
// once, since it is what becomes of its exit's reason; of others some.
func (s *Service) watchOOM(ctx context.Context, p *pod) {
	answers := &pace{every: 50 * time.Millisecond, burst: 20}
	repeats := &pace{every: time.Second, burst: 4}
	for {
		time.Sleep(answers.take())
		ev, err := p.agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
		if err != nil {
			return // the TEE ended
		}
		s.mu.Lock()
		c := s.containers[ev.GetContainerId()]
		s.mu.Unlock()
		if c == nil || c.oomTold && !repeats.free() {
			continue
		}
		c.oomTold = true
		s.events.send(&events.TaskOOM{ContainerID: c.id})
		// CRI-O looks for this file.
		if err := os.WriteFile(filepath.Join(c.bundle, "oom"), nil, 0o600); err != nil {
			s.log.Warn("recording an OOM kill", "error", err)
		}
	}
}

// pace lets something happen at most once in a while, but for a burst.
type pace struct {
	every time.Duration
	burst int
	next  time.Time // when the last of what was let through would have come without bursts
}

// wait tells how long the next one would have to wait.
func (p *pace) wait() time.Duration {
	if now := time.Now(); p.next.Before(now) {
		p.next = now
	}
	return max(0, time.Until(p.next)-p.every*time.Duration(p.burst-1))
}

// take counts one and tells how long it has to wait.
func (p *pace) take() time.Duration {
	d := p.wait()
	p.next = p.next.Add(p.every)
	return d
}

// free counts one if it need not wait.
func (p *pace) free() bool {
	if p.wait() > 0 {
		return false
	}
	p.next = p.next.Add(p.every)
	return true
}
