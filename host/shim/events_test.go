package shim

import (
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/host/sandbox"
)

// toldAtOnce is a publisher whose queue nobody empties, and whose end waits for nobody.
func toldAtOnce(size int) *publisher {
	p := &publisher{address: "/none", queue: make(chan *types.Envelope, size), done: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
	close(p.done)
	return p
}

// TestSendAtTheEnd: calls that are answered while the shim ends, and exits of a TEE that
// takes its time, send events to a queue that is closed. They are lost, and nothing else is.
func TestSendAtTheEnd(t *testing.T) {
	p := toldAtOnce(100)
	p.send(&events.TaskExit{ContainerID: "c"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				p.send(&events.TaskOOM{ContainerID: "c"})
			}
		})
		wg.Go(func() { p.close(time.Second) })
	}
	wg.Wait()
	p.send(&events.TaskExit{ContainerID: "late"})
	p.close(time.Second)
	if e := <-p.queue; e.GetTopic() != "/tasks/exit" {
		t.Errorf("the first event is %q", e.GetTopic())
	}
	for e := range p.queue { // it is closed
		if e.GetTopic() == "/tasks/exit" {
			t.Error("an event was sent to a closed queue")
		}
	}
}

// slow is a TEE whose end is known only a while after it was destroyed.
type slow struct{ still }

func (s *slow) Wait() sandbox.Exit {
	e := s.still.Wait()
	time.Sleep(300 * time.Millisecond)
	return e
}

// TestExitsAtTheEnd: a shim that is told to end while its pod runs tells the exits of all
// that was in it before it ends.
func TestExitsAtTheEnd(t *testing.T) {
	ev := toldAtOnce(100)
	s := newService("pod1", t.TempDir(), nil, ev, func() {}, ev.log)
	tee := &slow{still{make(chan struct{})}}
	s.pod = &pod{id: "pod1", vm: tee, policy: new(podpolicy.Policy), done: tee.done, log: ev.log, dir: filepath.Join(t.TempDir(), "none")}
	s.containers["pod1"] = &container{proc: newProc(stdio{}), id: "pod1", sandbox: true}
	s.containers["c1"] = &container{proc: newProc(stdio{}), id: "c1", execs: map[string]*exec{"e1": {proc: newProc(stdio{})}}}
	go s.watchVM(s.pod)
	s.finish()
	exits := map[string]bool{}
	for e := range ev.queue {
		x := new(events.TaskExit)
		if err := proto.Unmarshal(e.Event.Value, x); err != nil {
			t.Fatal(err)
		}
		exits[x.ID] = x.ExitStatus == killed
	}
	if len(exits) != 3 || !exits["pod1"] || !exits["c1"] || !exits["e1"] {
		t.Errorf("exits told: %v", exits)
	}
}
