package pid1

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/keyholder"
)

// eventTime bounds the recording of one event: the TEE may have to be opened first.
const eventTime = time.Minute

// recordedImages records each image that was pulled, once, where initdata wants
// run-time events recorded. A container whose image could not be recorded does not
// start: who asked for the record would not know of it. A TEE without a register
// for events records none, which its evidence shows, and starts containers.
type recordedImages struct {
	agent.Images
	record func(ctx context.Context, image, manifest string) error

	mu   sync.Mutex
	done map[string]bool // by manifest digest
}

// recordPulls wraps images if events are to be recorded.
func recordPulls(g *Guest, images agent.Images) (agent.Images, error) {
	if g.Initdata.Document == nil {
		return images, nil
	}
	aa, err := g.Initdata.Document.AA()
	if err != nil {
		return nil, err
	}
	if aa == nil || aa.EventlogConfig == nil || !aa.EventlogConfig.EnableEventlog {
		return images, nil
	}
	return &recordedImages{Images: images, done: map[string]bool{}, record: func(ctx context.Context, image, manifest string) error {
		r, err := recordPull(ctx, image, manifest)
		if err == nil && r != aapb.RuntimeMeasurementResult_OK {
			g.Log.Warn("the image is not recorded", "image", image, "result", r)
		}
		return err
	}}, nil
}

// Prepare implements agent.Images.
func (r *recordedImages) Prepare(ctx context.Context, c *podpolicy.Container) (*agent.Image, error) {
	img, err := r.Images.Prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := agent.Asked(ctx); err != nil { // a pull ahead of its container is no event yet
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done[c.ManifestDigest] {
		return img, nil
	}
	if err := r.record(ctx, c.Image, c.ManifestDigest); err != nil {
		return nil, &recordError{c.Image, err}
	}
	r.done[c.ManifestDigest] = true
	return img, nil
}

// recordError says that an image is there and that this could not be recorded.
type recordError struct {
	image string // as the policy names it
	err   error
}

func (e *recordError) Error() string {
	return fmt.Sprintf("image %s: recording that it was pulled: %v", e.image, e.err)
}

func (e *recordError) Unwrap() error { return e.err }

// Public gives what the host may read (agent.Images): who looks for the fault must
// not look in the registry.
func (e *recordError) Public() string {
	return fmt.Sprintf("image %s: it was pulled, and that could not be recorded among the run-time events", e.image)
}

// pulled is the published content of the event, in canonical form (RFC 8785).
type pulled struct {
	Digest string `json:"digest"` // of the platform's manifest
	Image  string `json:"image"`
}

// recordPull asks the key holder to record an image.
func recordPull(ctx context.Context, image, manifest string) (aapb.RuntimeMeasurementResult, error) {
	content, err := json.Marshal(pulled{manifest, image})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, eventTime)
	defer cancel()
	conn, err := dialPatiently(ctx, keyholder.AASocket)
	if err != nil {
		return 0, err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	rsp, err := aapb.NewAttestationAgentServiceClient(c).ExtendRuntimeMeasurement(ctx, &aapb.ExtendRuntimeMeasurementRequest{
		Domain: keyholder.GuestDomain, Operation: "PullImage", Content: string(content),
	})
	return rsp.GetResult(), err
}

// dialPatiently waits for a key holder that starts, or starts anew.
func dialPatiently(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
