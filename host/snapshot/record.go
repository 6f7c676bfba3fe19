package snapshot

import (
	"encoding/json"
	"regexp"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Bounds of what a caller may store.
const (
	maxKey       = 1024
	maxLabels    = 64
	maxLabel     = 4096 // of one key and its value, containerd's own bound
	maxSnapshots = 1 << 16
)

// refLabel asks for a layer: its value is the layer's chain ID.
const refLabel = "containerd.io/snapshot.ref"

// record is one snapshot as stored.
type record struct {
	Kind    api.Kind          `json:"kind"`
	Parent  string            `json:"parent,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Root    string            `json:"root,omitempty"` // of a container: which of roots
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
}

func (r *record) info(name string) *api.Info {
	return &api.Info{
		Name: name, Parent: r.Parent, Kind: r.Kind, Labels: r.Labels,
		CreatedAt: timestamppb.New(r.Created), UpdatedAt: timestamppb.New(r.Updated),
	}
}

func decode(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, status.Errorf(codes.DataLoss, "reading a stored snapshot: %v", err)
	}
	return r, nil
}

var chainID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// isLayer tells names of layers, under which they are stored, from keys of containers.
func isLayer(name string) bool { return chainID.MatchString(name) }

func checkKey(what, key string) error {
	if key == "" || len(key) > maxKey {
		return status.Errorf(codes.InvalidArgument, "%s has %d bytes, want 1 to %d", what, len(key), maxKey)
	}
	for i := range len(key) {
		if key[i] == 0 {
			return status.Errorf(codes.InvalidArgument, "%s holds a zero byte", what)
		}
	}
	return nil
}

func checkLabels(l map[string]string) error {
	if len(l) > maxLabels {
		return status.Errorf(codes.InvalidArgument, "%d labels, at most %d", len(l), maxLabels)
	}
	for k, v := range l {
		if k == "" || len(k)+len(v) > maxLabel {
			return status.Errorf(codes.InvalidArgument, "a label of %d bytes, want 1 to %d", len(k)+len(v), maxLabel)
		}
	}
	return nil
}
