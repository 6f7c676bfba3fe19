package snapshot

import (
	"context"
	"log/slog"
	"maps"
	"strings"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// users gives the USERs of the images whose top layer this is.
type users interface {
	users(ctx context.Context, layer string) ([]string, error)
}

// service answers containerd. Errors are gRPC's codes, which containerd takes for
// its own kinds of error.
type service struct {
	api.UnimplementedSnapshotsServer
	store *store
	roots roots
	users users // nil: no names are known
	kata  bool  // say in mounts that the guest pulls, as published (katavolume.go)
	log   *slog.Logger
}

// Prepare answers for a layer that it exists, and gives a container its root.
func (s *service) Prepare(ctx context.Context, r *api.PrepareSnapshotRequest) (*api.PrepareSnapshotResponse, error) {
	if err := checkLabels(r.GetLabels()); err != nil {
		return nil, err
	}
	if ref, ok := r.GetLabels()[refLabel]; ok {
		if !isLayer(ref) {
			return nil, status.Errorf(codes.InvalidArgument, "label %s: not the chain ID of a layer", refLabel)
		}
		if p := r.GetParent(); p != "" && !isLayer(p) {
			return nil, status.Errorf(codes.InvalidArgument, "layer %s on %q, which is no layer", ref, p)
		}
		return nil, s.store.addLayer(ref, r.GetParent(), r.GetLabels())
	}
	m, err := s.create(ctx, api.Kind_ACTIVE, r.GetKey(), r.GetParent(), r.GetLabels())
	if err != nil {
		return nil, err
	}
	return &api.PrepareSnapshotResponse{Mounts: m}, nil
}

// View gives a root to look at.
func (s *service) View(ctx context.Context, r *api.ViewSnapshotRequest) (*api.ViewSnapshotResponse, error) {
	if err := checkLabels(r.GetLabels()); err != nil {
		return nil, err
	}
	m, err := s.create(ctx, api.Kind_VIEW, r.GetKey(), r.GetParent(), r.GetLabels())
	if err != nil {
		return nil, err
	}
	return &api.ViewSnapshotResponse{Mounts: m}, nil
}

func (s *service) create(ctx context.Context, kind api.Kind, key, parent string, labels map[string]string) ([]*types.Mount, error) {
	if err := checkKey("the key", key); err != nil {
		return nil, err
	}
	if isLayer(key) {
		return nil, status.Error(codes.InvalidArgument, "the key has the form of a layer's chain ID")
	}
	if parent != "" {
		if err := checkKey("the parent", parent); err != nil {
			return nil, err
		}
	}
	root, err := s.roots.make(s.usersOf(ctx, parent))
	if err != nil {
		return nil, err
	}
	m, err := s.mounts(&record{Kind: kind, Parent: parent, Root: root})
	if err != nil {
		return nil, err
	}
	return m, s.store.add(key, kind, parent, root, labels)
}

// usersOf asks which names containerd will look up. Without an answer a container
// gets an empty root: those whose image names its user by a number still start.
func (s *service) usersOf(ctx context.Context, layer string) []string {
	if s.users == nil || !isLayer(layer) {
		return nil
	}
	u, err := s.users.users(ctx, layer)
	if err != nil {
		s.log.Warn("users of an image are unknown: containers of named users will not start", "layer", layer, "error", err)
	}
	return u
}

// mounts shows a root read-only: nothing can be put into an image this way.
func (s *service) mounts(r *record) ([]*types.Mount, error) {
	path, err := s.roots.path(r.Root)
	if err != nil {
		return nil, err
	}
	m := &types.Mount{Type: "bind", Source: path, Options: []string{"rbind", "ro"}}
	if s.kata && r.Kind == api.Kind_ACTIVE && r.Parent != "" {
		o, err := s.kataOption(r.Parent)
		if err != nil {
			return nil, err
		}
		m.Options = append(m.Options, o)
	}
	return []*types.Mount{m}, nil
}

// Mounts gives a container's root again.
func (s *service) Mounts(_ context.Context, r *api.MountsRequest) (*api.MountsResponse, error) {
	rec, err := s.find(r.GetKey())
	if err != nil {
		return nil, err
	}
	if rec.Kind == api.Kind_COMMITTED {
		return nil, status.Errorf(codes.InvalidArgument, "%q is a layer: it has no files here", r.GetKey())
	}
	m, err := s.mounts(rec)
	if err != nil {
		return nil, err
	}
	return &api.MountsResponse{Mounts: m}, nil
}

func (s *service) find(key string) (*record, error) {
	if err := checkKey("the key", key); err != nil {
		return nil, err
	}
	return s.store.find(key)
}

// Commit is refused: a layer with content would be one that the guest never sees.
func (s *service) Commit(context.Context, *api.CommitSnapshotRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "this snapshotter keeps no files: an image cannot be unpacked or committed into it")
}

// Remove forgets a snapshot.
func (s *service) Remove(_ context.Context, r *api.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	if err := checkKey("the key", r.GetKey()); err != nil {
		return nil, err
	}
	if err := s.store.remove(r.GetKey()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Stat tells of a snapshot.
func (s *service) Stat(_ context.Context, r *api.StatSnapshotRequest) (*api.StatSnapshotResponse, error) {
	rec, err := s.find(r.GetKey())
	if err != nil {
		return nil, err
	}
	return &api.StatSnapshotResponse{Info: rec.info(r.GetKey())}, nil
}

// Update changes labels, the only part of a snapshot that may change.
func (s *service) Update(_ context.Context, r *api.UpdateSnapshotRequest) (*api.UpdateSnapshotResponse, error) {
	name, labels := r.GetInfo().GetName(), r.GetInfo().GetLabels()
	if err := checkKey("the name", name); err != nil {
		return nil, err
	}
	rec, err := s.store.change(name, func(rec *record) error {
		next, err := updated(rec.Labels, labels, r.GetUpdateMask().GetPaths())
		if err != nil {
			return err
		}
		rec.Labels = next
		return checkLabels(next)
	})
	if err != nil {
		return nil, err
	}
	return &api.UpdateSnapshotResponse{Info: rec.info(name)}, nil
}

// updated applies a field mask to labels: none and "labels" replace all of them,
// "labels.NAME" replaces one, or removes it where the request has none.
func updated(have, want map[string]string, paths []string) (map[string]string, error) {
	if len(paths) == 0 {
		return want, nil
	}
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for _, p := range paths {
		name, one := strings.CutPrefix(p, "labels.")
		switch {
		case p == "labels":
			out = maps.Clone(want)
			if out == nil {
				out = map[string]string{}
			}
		case !one:
			return nil, status.Errorf(codes.InvalidArgument, "field %q of a snapshot cannot change", p)
		case want[name] == "":
			delete(out, name)
		default:
			out[name] = want[name]
		}
	}
	return out, nil
}

// listBlock is how many snapshots go into one message of List.
const listBlock = 100

// List gives every snapshot. Of filters it knows none: containerd, the only one to
// ask, filters what it is given again.
func (s *service) List(_ *api.ListSnapshotsRequest, out api.Snapshots_ListServer) error {
	var all []*api.Info
	if err := s.store.walk(func(name string, r *record) error {
		all = append(all, r.info(name))
		return nil
	}); err != nil {
		return err
	}
	for len(all) > 0 {
		n := min(len(all), listBlock)
		if err := out.Send(&api.ListSnapshotsResponse{Info: all[:n]}); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// Usage is nothing: no snapshot has files of its own.
func (s *service) Usage(_ context.Context, r *api.UsageRequest) (*api.UsageResponse, error) {
	if _, err := s.find(r.GetKey()); err != nil {
		return nil, err
	}
	return &api.UsageResponse{}, nil
}
