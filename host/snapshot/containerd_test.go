package snapshot

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fakeContainerd has images, content and events of one namespace.
type fakeContainerd struct {
	images.UnimplementedImagesServer
	eventsapi.UnimplementedEventsServer
	sock string

	mu     sync.Mutex
	images map[string]string            // name: target
	blobs  map[string][]byte            // by digest
	labels map[string]map[string]string // of blobs
	send   chan *types.Envelope
}

func newFakeContainerd(t *testing.T) *fakeContainerd {
	t.Helper()
	f := &fakeContainerd{
		sock: filepath.Join(t.TempDir(), "containerd.sock"), images: map[string]string{}, blobs: map[string][]byte{}, labels: map[string]map[string]string{}, send: make(chan *types.Envelope),
	}
	l, err := net.Listen("unix", f.sock)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	images.RegisterImagesServer(g, f)
	content.RegisterContentServer(g, contentOf{f: f})
	eventsapi.RegisterEventsServer(g, f)
	go func() { _ = g.Serve(l) }() // ends with the test
	t.Cleanup(g.Stop)
	return f
}

func inK8s(ctx context.Context) error {
	if ns := metadata.ValueFromIncomingContext(ctx, namespaceHeader); len(ns) != 1 || ns[0] != "k8s.io" {
		return status.Errorf(codes.FailedPrecondition, "namespace %v", ns)
	}
	return nil
}

func (f *fakeContainerd) List(ctx context.Context, _ *images.ListImagesRequest) (*images.ListImagesResponse, error) {
	if err := inK8s(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &images.ListImagesResponse{}
	for n, d := range f.images {
		out.Images = append(out.Images, &images.Image{Name: n, Target: &types.Descriptor{Digest: d}})
	}
	return out, nil
}

func (f *fakeContainerd) Delete(ctx context.Context, r *images.DeleteImageRequest) (*emptypb.Empty, error) {
	if err := inK8s(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.images[r.GetName()] != r.GetTarget().GetDigest() {
		return nil, status.Error(codes.NotFound, "another image")
	}
	delete(f.images, r.GetName())
	return &emptypb.Empty{}, nil
}

func (f *fakeContainerd) Subscribe(_ *eventsapi.SubscribeRequest, s eventsapi.Events_SubscribeServer) error {
	for {
		select {
		case e := <-f.send:
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// contentOf has the methods whose names images have too.
type contentOf struct {
	content.UnimplementedContentServer
	f *fakeContainerd
}

func (c contentOf) Info(ctx context.Context, r *content.InfoRequest) (*content.InfoResponse, error) {
	if err := inK8s(ctx); err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if _, ok := c.f.blobs[r.GetDigest()]; !ok {
		return nil, status.Error(codes.NotFound, "no blob")
	}
	return &content.InfoResponse{Info: &content.Info{Digest: r.GetDigest(), Labels: c.f.labels[r.GetDigest()]}}, nil
}

func (c contentOf) Read(r *content.ReadContentRequest, s content.Content_ReadServer) error {
	if err := inK8s(s.Context()); err != nil {
		return err
	}
	c.f.mu.Lock()
	b, ok := c.f.blobs[r.GetDigest()]
	c.f.mu.Unlock()
	if !ok {
		return status.Error(codes.NotFound, "no blob")
	}
	for len(b) > 0 {
		n := min(len(b), 1<<20)
		if err := s.Send(&content.ReadContentResponse{Data: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (f *fakeContainerd) blob(t *testing.T, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(b)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[d.String()] = b
	return ocispec.Descriptor{Digest: d, Size: int64(len(b))}
}

// image adds one that was pulled for a snapshotter: without its layers if that is ours.
func (f *fakeContainerd) image(t *testing.T, name, user, snapshotter string, withLayers, index bool) (chain []string) {
	t.Helper()
	var c ocispec.Image
	c.Config.User = user
	var layers []ocispec.Descriptor
	for _, l := range []string{"base", "top of " + strings.TrimSuffix(name, "'")} {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("plain "+l))
		if withLayers {
			layers = append(layers, f.blob(t, l))
		} else {
			layers = append(layers, ocispec.Descriptor{Digest: digest.FromString("never fetched " + l)})
		}
	}
	cfg := f.blob(t, c)
	top := f.blob(t, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: cfg, Layers: layers})
	if index {
		other := ocispec.Descriptor{Digest: digest.FromString("the manifest of another platform")}
		top = f.blob(t, ocispec.Index{Manifests: []ocispec.Descriptor{other, top}})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[name] = top.Digest.String()
	f.labels[cfg.Digest.String()] = map[string]string{"containerd.io/gc.ref.snapshot." + snapshotter: "x"}
	for _, id := range identity.ChainIDs(append([]digest.Digest(nil), c.RootFS.DiffIDs...)) {
		chain = append(chain, id.String())
	}
	return chain
}

func TestNamedUsers(t *testing.T) {
	f := newFakeContainerd(t)
	f.image(t, "numbers", "1000:1000", "coffer", false, false)
	a := f.image(t, "a", "app:staff", "coffer", false, true)
	f.image(t, "a'", "root", "coffer", false, false) // the same layers, another configuration
	odd := f.image(t, "odd", "x:y\nroot:x:0:0", "coffer", false, false)
	r := start(t, t.TempDir(), f.sock)
	r.pull(a...)
	src := r.container("k8s.io/5/c", a[1])
	for name, want := range map[string]string{
		"passwd": "app:x:2147483646:2147483646::/:\nroot:x:0:0::/:\n",
		"group":  "staff:x:2147483646:\n",
	} {
		if b, err := os.ReadFile(filepath.Join(src, "etc", name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	r.pull(odd...)
	src = r.container("k8s.io/6/c", odd[1])
	if b, err := os.ReadFile(filepath.Join(src, "etc/group")); err != nil || len(b) != 0 {
		t.Errorf("a group's name with a line of its own: %q, %v", b, err)
	}
	if src := r.container("k8s.io/7/c", a[0]); filepath.Base(src) != emptyRoot {
		t.Errorf("a container of the base layer alone has %s", src)
	}
}

// containerd being away keeps nobody from starting whose user is a number.
func TestUsersUnknown(t *testing.T) {
	r := start(t, t.TempDir(), filepath.Join(t.TempDir(), "nobody.sock"))
	r.pull(chain(1))
	if src := r.container("k8s.io/5/c", chain(1)); filepath.Base(src) != emptyRoot {
		t.Errorf("root %s", src)
	}
}

func (f *fakeContainerd) removed(t *testing.T, key, snapshotter string) {
	t.Helper()
	b, err := proto.Marshal(&events.SnapshotRemove{Key: key, Snapshotter: snapshotter})
	if err != nil {
		t.Fatal(err)
	}
	e := &types.Envelope{Namespace: "k8s.io", Topic: "/snapshot/remove", Event: &anypb.Any{TypeUrl: "containerd.events.SnapshotRemove", Value: b}}
	select {
	case f.send <- e:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody listens to events")
	}
}

func (f *fakeContainerd) names() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]bool{}
	for n := range f.images {
		out[n] = true
	}
	return out
}

func TestHealer(t *testing.T) {
	f := newFakeContainerd(t)
	hollow := f.image(t, "hollow", "", "coffer", false, true)
	f.mu.Lock()
	f.images["hollow@digest"] = f.images["hollow"]
	f.mu.Unlock()
	f.image(t, "other", "", "coffer", false, false)
	f.image(t, "whole", "", "coffer", true, false)
	f.image(t, "lazy", "", "stargz", false, false) // another remote snapshotter's own
	start(t, t.TempDir(), f.sock)

	// What must not matter: our own snapshots, containers, successes of any kind.
	f.removed(t, "extract-1-a "+hollow[1], "coffer")
	f.removed(t, "some-container", "overlayfs")
	f.removed(t, "extract-1-a sha256:12", "overlayfs")
	f.removed(t, "extract-1-a "+chain(4), "overlayfs")
	if n := f.names(); len(n) != 5 {
		t.Fatalf("images %v", n)
	}
	f.removed(t, "extract-331-JTjB "+hollow[1], "overlayfs")
	within(t, func() bool { n := f.names(); return !n["hollow"] && !n["hollow@digest"] })
	if n := f.names(); !n["other"] || !n["whole"] || !n["lazy"] {
		t.Errorf("left: %v", n)
	}
	// The base is everybody's: of those without layers only ours go.
	f.removed(t, "extract-332-JTjB "+hollow[0], "overlayfs")
	within(t, func() bool { return !f.names()["other"] })
	f.removed(t, "extract-333-JTjB "+chain(4), "overlayfs") // handled after the one before
	if n := f.names(); len(n) != 2 || !n["whole"] || !n["lazy"] {
		t.Errorf("left: %v", n)
	}
}

func within(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("after 10 s still not")
		}
	}
}

func TestHostileImages(t *testing.T) {
	f := newFakeContainerd(t)
	good := f.image(t, "good", "app", "coffer", false, false)
	big := f.blob(t, strings.Repeat("x", maxBlob))
	many := f.blob(t, ocispec.Index{Manifests: make([]ocispec.Descriptor, maxManifests+1)})
	layers := f.blob(t, ocispec.Manifest{Config: f.blob(t, ocispec.Image{}), Layers: make([]ocispec.Descriptor, maxLayers+1)})
	f.mu.Lock()
	for n, d := range map[string]ocispec.Descriptor{"big": big, "many": many, "layers": layers, "gone": {Digest: digest.FromString("gone")}} {
		f.images[n] = d.Digest.String()
	}
	f.mu.Unlock()
	r := start(t, t.TempDir(), f.sock)
	src := r.container("k8s.io/5/c", good[1])
	if b, err := os.ReadFile(filepath.Join(src, "etc/passwd")); err != nil || !strings.HasPrefix(string(b), "app:") {
		t.Errorf("beside images that cannot be read: %q, %v", b, err)
	}
}
