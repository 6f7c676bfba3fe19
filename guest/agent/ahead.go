package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// aheadTime bounds how long a pull waits for somebody to ask for it, and aheadFresh how
// long a failure from before is an answer: later, what was in its way may be gone.
const (
	aheadTime  = 10 * time.Minute
	aheadFresh = 5 * time.Second
)

// ahead pulls the image of the pod's first container as soon as the sandbox is there.
// A kubelet takes its time before it asks for the container, and so does each round
// trip. Only what the policy names is pulled, as it would be anyway, and no further than
// to where the trustee would have to release something (Asked). The outcome is for one
// request, so that a failure is met once and a new attempt is a new one.
type ahead struct {
	Images

	mu    sync.Mutex
	first string // the container's name; "": none, or somebody has had its outcome
	done  chan struct{}
	asked chan struct{} // closed when the container was asked for
	// cancel ends the pull, as aheadTime does by timer unless somebody asks before.
	cancel context.CancelFunc
	timer  *time.Timer

	// before done is closed: set by begin's goroutine
	image *Image
	err   error
	ended time.Time
}

// begin pulls the image of the container that starts first.
func (a *ahead) begin(p *podpolicy.Policy) {
	var c *podpolicy.Container
	switch {
	case len(p.InitContainers) > 0:
		c = &p.InitContainers[0]
	case len(p.Containers) > 0:
		c = &p.Containers[0]
	default:
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done != nil { // once in a guest's life
		return
	}
	a.first, a.done, a.asked = c.Name, make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), askedKey{}, a.asked))
	a.cancel, a.timer = cancel, time.AfterFunc(aheadTime, cancel)
	go func() {
		defer close(a.done)
		defer cancel()
		a.image, a.err = a.Images.Prepare(ctx, c)
		a.ended = time.Now()
	}()
}

// Prepare implements Images. Who has asked decides from then on how long the pull may
// take: it ends with that request, as any other.
func (a *ahead) Prepare(ctx context.Context, c *podpolicy.Container) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !a.take(c) {
		return a.Images.Prepare(ctx, c)
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		a.cancel()
		<-a.done // nothing of it is left when the caller goes on
		return nil, ctx.Err()
	}
	if a.err == nil || time.Since(a.ended) < aheadFresh && !errors.Is(a.err, context.Canceled) {
		return a.image, a.err
	}
	return a.Images.Prepare(ctx, c)
}

// take says whether the pull is for this request, which then has its outcome.
func (a *ahead) take(c *podpolicy.Container) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first == "" || a.first != c.Name {
		return false
	}
	a.first = ""
	a.timer.Stop()
	close(a.asked)
	return true
}

// askedKey is where a context has ahead.asked.
type askedKey struct{}

// Asked waits until the host has asked for the container that an image is for, and the
// policy has allowed it. Whoever prepares images calls it before what makes the trustee
// release a key or a credential: for a sandbox alone nothing is released.
func Asked(ctx context.Context) error {
	asked, ok := ctx.Value(askedKey{}).(chan struct{})
	if !ok {
		return nil
	}
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
