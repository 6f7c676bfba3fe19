package shim

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Bounds of the way events take.
const (
	eventQueue   = 2048
	eventTimeout = 5 * time.Second
	eventTries   = 60 // about two minutes: containerd may be restarting
)

const topicOOM = "/tasks/oom"

// topicOf gives the topic under which containerd wants an event.
func topicOf(e proto.Message) string {
	switch e.(type) {
	case *events.TaskCreate:
		return "/tasks/create"
	case *events.TaskStart:
		return "/tasks/start"
	case *events.TaskExit:
		return "/tasks/exit"
	case *events.TaskDelete:
		return "/tasks/delete"
	case *events.TaskOOM:
		return topicOOM
	case *events.TaskExecAdded:
		return "/tasks/exec-added"
	case *events.TaskExecStarted:
		return "/tasks/exec-started"
	case *events.TaskPaused:
		return "/tasks/paused"
	case *events.TaskResumed:
		return "/tasks/resumed"
	}
	return "/tasks/?"
}

// publisher tells containerd what happens, in order. An event that cannot be told
// stays until containerd is back, for a while. CRI-O names no address and is told
// nothing.
type publisher struct {
	address, namespace string
	queue              chan *types.Envelope
	done               chan struct{}
	log                *slog.Logger

	mu     sync.Mutex // nothing blocks while it is held
	closed bool
}

func newPublisher(address, namespace string, log *slog.Logger) *publisher {
	p := &publisher{address: address, namespace: namespace, queue: make(chan *types.Envelope, eventQueue), done: make(chan struct{}), log: log}
	go p.run()
	return p
}

func (p *publisher) send(e proto.Message) {
	if p.address == "" {
		return
	}
	b, err := proto.Marshal(e)
	if err != nil {
		p.log.Error("event lost", "error", err)
		return
	}
	env := &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topicOf(e),
		Event: &anypb.Any{TypeUrl: string(proto.MessageName(e)), Value: b},
	}
	if why := p.enqueue(env); why != "" {
		p.log.Error("event lost: "+why, "topic", env.Topic)
	}
}

// enqueue says why the event cannot be told, if so. At the shim's end calls are still
// answered, and send events, when the queue is closed already.
func (p *publisher) enqueue(env *types.Envelope) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return "the shim ends"
	}
	// What a guest can have sent without an end leaves room for what only happens once.
	if env.Topic == topicOOM && len(p.queue) >= cap(p.queue)/2 {
		return "too many wait"
	}
	select {
	case p.queue <- env:
		return ""
	default:
		return "too many wait"
	}
}

// close waits until what was sent is told, or nobody listens. What is sent later is lost.
func (p *publisher) close(timeout time.Duration) {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.queue)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
	case <-time.After(timeout):
	}
}

func (p *publisher) run() {
	defer close(p.done)
	var client *ttrpc.Client
	for env := range p.queue {
		for try := 0; try < eventTries; try++ {
			if client == nil {
				conn, err := net.DialTimeout("unix", p.address, eventTimeout)
				if err != nil {
					time.Sleep(2 * time.Second)
					continue
				}
				client = ttrpc.NewClient(conn)
			}
			ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
			_, err := eventsapi.NewTTRPCEventsClient(client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: env})
			cancel()
			if err == nil {
				break
			}
			p.log.Warn("telling containerd", "topic", env.Topic, "error", err)
			_ = client.Close()
			client = nil
		}
	}
}
