package shim

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
)

// floodAgent says without an end that containers were killed, until a minute is over.
type floodAgent struct {
	agentpb.AgentServiceService
	began time.Time
	asked int
}

func (a *floodAgent) GetOOMEvent(context.Context, *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	a.asked++
	if a.asked > 100_000 || time.Since(a.began) > time.Minute {
		return nil, io.EOF
	}
	id := "c1"
	switch {
	case a.asked == 210: // once, in the middle of it all
		id = "c2"
	case a.asked%2 == 0:
		id = "nobody"
	}
	return &agentpb.OOMEvent{ContainerId: id}, nil
}

// TestOOMFlood: a guest that reports OOM kills without an end keeps neither the shim busy
// nor containerd, and hides no other container's.
func TestOOMFlood(t *testing.T) {
	c1, c2 := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ev := toldAtOnce(eventQueue)
		s := newService("pod", t.TempDir(), nil, ev, func() {}, slog.New(slog.DiscardHandler))
		s.containers["c1"] = &container{proc: newProc(stdio{}), id: "c1", bundle: c1}
		s.containers["c2"] = &container{proc: newProc(stdio{}), id: "c2", bundle: c2}
		a := &floodAgent{began: time.Now()}
		s.watchOOM(t.Context(), &pod{agent: a})
		ev.close(time.Second)
		if a.asked > 1300 {
			t.Errorf("the guest was asked %d times in a minute", a.asked)
		}
		told := map[string]int{}
		for e := range ev.queue {
			oom := new(events.TaskOOM)
			if err := proto.Unmarshal(e.Event.Value, oom); err != nil {
				t.Fatal(err)
			}
			if told[oom.ContainerID]++; told[oom.ContainerID] == 1 {
				// c1's with the first answer, c2's with the 210th of twenty a second.
				want := map[string]time.Duration{"c1": 0, "c2": 9500 * time.Millisecond}[oom.ContainerID]
				if at := e.Timestamp.AsTime().Sub(a.began); at > want+100*time.Millisecond {
					t.Errorf("the first kill in %s was told after %s", oom.ContainerID, at)
				}
			}
		}
		if told["c1"] < 30 || told["c1"] > 66 || told["c2"] != 1 {
			t.Errorf("told: %v", told)
		}
		for _, dir := range []string{c1, c2} {
			if _, err := os.Stat(filepath.Join(dir, "oom")); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestOOMLeavesRoom: while containerd is away, OOM kills take the place of no exit.
func TestOOMLeavesRoom(t *testing.T) {
	ev := toldAtOnce(8)
	for range 20 {
		ev.send(&events.TaskOOM{ContainerID: "c1"})
	}
	for range 4 {
		ev.send(&events.TaskExit{ContainerID: "c1"})
	}
	ev.close(time.Second)
	told := map[string]int{}
	for e := range ev.queue {
		told[e.Topic]++
	}
	if told["/tasks/oom"] != 4 || told["/tasks/exit"] != 4 {
		t.Errorf("told: %v", told)
	}
}
