package snapshot

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
)

// volume reads the option as a runtime does that knows the published form alone.
func volume(t *testing.T, mounts []*types.Mount) map[string]any {
	t.Helper()
	if len(mounts) != 1 {
		t.Fatalf("mounts %v", mounts)
	}
	for _, o := range mounts[0].GetOptions() {
		if text, ok := strings.CutPrefix(o, "io.katacontainers.volume="); ok {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			v := map[string]any{}
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return nil
}

// Another runtime whose guest pulls learns so from its container's mount, now and when it
// is asked for again. Who only looks at a root learns nothing, nor does anybody by default.
func TestKataVolume(t *testing.T) {
	r := startWith(t, Config{Root: t.TempDir(), KataVolume: true})
	r.pull(chain(1), chain(2))
	p, err := r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{Key: "k8s.io/9/c", Parent: chain(2)})
	if err != nil {
		t.Fatal(err)
	}
	later, err := r.c.Mounts(r.ctx(), &api.MountsRequest{Key: "k8s.io/9/c"})
	if err != nil {
		t.Fatal(err)
	}
	for when, m := range map[string][]*types.Mount{"at once": p.GetMounts(), "later": later.GetMounts()} {
		v := volume(t, m)
		pull, ok := v["image_pull"].(map[string]any)
		if !ok || v["volume_type"] != "image_guest_pull" || v["source"] != "a/b:c" || v["fs_type"] != "overlay" {
			t.Fatalf("%s: volume %v", when, v)
		}
		if meta, ok := pull["metadata"].(map[string]any); !ok || meta["containerd.io/snapshot/cri.image-ref"] != "a/b:c" {
			t.Errorf("%s: metadata %v", when, pull)
		}
	}
	view, err := r.c.View(r.ctx(), &api.ViewSnapshotRequest{Key: "k8s.io/10/v", Parent: chain(2)})
	if err != nil || volume(t, view.GetMounts()) != nil {
		t.Errorf("a view has %v, %v", view.GetMounts(), err)
	}
	// A layer that containerd alone knows has no name here; runtimes want some source.
	p, err = r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{Key: "k8s.io/11/c", Parent: chain(7)})
	if err != nil {
		t.Fatal(err)
	}
	if v := volume(t, p.GetMounts()); v["source"] != chain(7) {
		t.Errorf("volume on an unknown layer: %v", v)
	}

	plain := start(t, t.TempDir(), "")
	plain.pull(chain(1))
	p, err = plain.c.Prepare(plain.ctx(), &api.PrepareSnapshotRequest{Key: "k8s.io/9/c", Parent: chain(1)})
	if err != nil || volume(t, p.GetMounts()) != nil {
		t.Errorf("without the flag: %v, %v", p.GetMounts(), err)
	}
}

// What would not fit into a mount's options leaves no container behind.
func TestKataVolumeTooLong(t *testing.T) {
	r := startWith(t, Config{Root: t.TempDir(), KataVolume: true})
	_, err := r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{
		Key: "x", Labels: map[string]string{refLabel: chain(1), imageRefLabel: strings.Repeat("a", 3000)},
	})
	r.want(err, codes.AlreadyExists, "the layer")
	_, err = r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{Key: "k8s.io/1/c", Parent: chain(1)})
	r.want(err, codes.InvalidArgument, "a container on it")
	if n := len(r.list()); n != 1 {
		t.Errorf("%d snapshots, want the layer alone", n)
	}
}
