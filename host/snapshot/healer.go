package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/services/images/v1"
	"google.golang.org/grpc"
)

const (
	callTimeout = 3 * time.Second  // of a call to containerd within another one
	healTimeout = 30 * time.Second // of a whole repair
	retryDelay  = time.Second      // until the next attempt to listen
)

// healer mends what two snapshotters make of one image. containerd believes that an
// image is on the node when its manifest is; after a pull for this snapshotter its
// layers are not. A pod of another runtime then fails to unpack it, and, as the image
// seems to be there, nobody pulls. The healer sees such a failure and removes the
// image's record: the kubelet, which tries the pod again, pulls it as a whole. Pods
// that run keep what they have.
type healer struct {
	name   string // of this snapshotter
	reader *imageReader
	events eventsapi.EventsClient
	log    *slog.Logger
}

func newHealer(name string, c grpc.ClientConnInterface, r *imageReader, log *slog.Logger) *healer {
	return &healer{name: name, reader: r, events: eventsapi.NewEventsClient(c), log: log}
}

// run listens as long as ctx lasts, across restarts of containerd.
func (h *healer) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := h.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		h.log.Info("not listening to containerd, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

func (h *healer) listen(ctx context.Context) error {
	s, err := h.events.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{`topic=="/snapshot/remove"`}})
	if err != nil {
		return fmt.Errorf("subscribing to containerd's events: %w", err)
	}
	for {
		e, err := s.Recv()
		if err != nil {
			return fmt.Errorf("receiving containerd's events: %w", err)
		}
		var rm events.SnapshotRemove
		if e.GetTopic() != "/snapshot/remove" || e.GetEvent().GetTypeUrl() != "containerd.events.SnapshotRemove" {
			continue
		}
		if err := unmarshal(e.GetEvent().GetValue(), &rm); err != nil {
			h.log.Warn("an event of containerd's cannot be read", "error", err)
			continue
		}
		layer, ok := failedLayer(rm.GetKey())
		if !ok || rm.GetSnapshotter() == h.name {
			continue
		}
		if err := h.heal(ctx, e.GetNamespace(), layer); err != nil {
			h.log.Warn("an image without its layers may be in another runtime's way", "layer", layer, "error", err)
		}
	}
}

// failedLayer reads the key under which containerd unpacks a layer, "extract-ID
// CHAIN". That snapshot is removed when unpacking has failed, else it is committed.
func failedLayer(key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, "extract-")
	if !ok || len(key) > maxKey {
		return "", false
	}
	_, layer, ok := strings.Cut(rest, " ")
	return layer, ok && isLayer(layer)
}

// heal removes the records of images that have this layer, were pulled for this
// snapshotter, and lack content.
func (h *healer) heal(ctx context.Context, ns, layer string) error {
	ctx, cancel := context.WithTimeout(inNamespace(ctx, ns), healTimeout)
	defer cancel()
	return h.reader.each(ctx, func(rec *images.Image, all []image) error {
		for i := range all {
			if !slices.Contains(all[i].chain, layer) {
				continue
			}
			hollow, err := h.hollow(ctx, &all[i])
			if err != nil {
				return err
			}
			if !hollow {
				continue
			}
			if _, err := h.reader.images.Delete(ctx, &images.DeleteImageRequest{Name: rec.GetName(), Target: rec.GetTarget()}); err != nil {
				return fmt.Errorf("removing the record of %s: %w", rec.GetName(), err)
			}
			h.log.Info("image without layers removed: another runtime wants them", "image", rec.GetName(), "layer", layer)
			return nil
		}
		return nil
	})
}

// hollow tells whether an image was pulled for this snapshotter, by the label that
// containerd puts on its configuration, and lacks layers.
func (h *healer) hollow(ctx context.Context, i *image) (bool, error) {
	ok, labels, err := h.reader.has(ctx, i.config)
	if err != nil || !ok || labels["containerd.io/gc.ref.snapshot."+h.name] == "" {
		return false, err
	}
	for _, l := range i.layers {
		if ok, _, err := h.reader.has(ctx, l); err != nil || !ok {
			return err == nil, err
		}
	}
	return false, nil
}
