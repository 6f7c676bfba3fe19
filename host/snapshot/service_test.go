package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

var clock = time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)

// running is a snapshotter as containerd sees it: a socket.
type running struct {
	t    *testing.T
	c    api.SnapshotsClient
	root string
	sock string
	stop func()
}

func start(t *testing.T, root, containerd string) *running {
	return startWith(t, Config{Root: root, Containerd: containerd})
}

func startWith(t *testing.T, c Config) *running {
	t.Helper()
	root := c.Root
	r := &running{t: t, root: root, sock: filepath.Join(t.TempDir(), "s", "s.sock")}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c.Listen, c.Name, c.Log, c.Now = r.sock, "coffer", slog.New(slog.NewTextHandler(io.Discard, nil)), func() time.Time { return clock }
	go func() { done <- Serve(ctx, c) }()
	for i := 0; i < 5000; i++ { // gRPC's next attempt would be a second later
		if _, err := os.Stat(r.sock); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	conn, err := grpc.NewClient("unix://"+r.sock, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	var once bool
	r.stop = func() {
		if once {
			return
		}
		once = true
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	}
	t.Cleanup(r.stop)
	r.c = api.NewSnapshotsClient(conn)
	return r
}

func (r *running) ctx() context.Context {
	ctx, cancel := context.WithTimeout(inNamespace(context.Background(), "k8s.io"), 10*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *running) want(err error, code codes.Code, what string) {
	r.t.Helper()
	if status.Code(err) != code {
		r.t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// pull asks for layers as containerd does for each of an image's.
func (r *running) pull(chain ...string) {
	r.t.Helper()
	parent := ""
	for i, ref := range chain {
		_, err := r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{
			Key: fmt.Sprintf("k8s.io/%d/extract-1 %s", i, ref), Parent: parent, Labels: map[string]string{refLabel: ref, "containerd.io/snapshot/cri.image-ref": "a/b:c"},
		})
		r.want(err, codes.AlreadyExists, "layer "+ref)
		parent = ref
	}
}

func (r *running) container(key, parent string) (source string) {
	r.t.Helper()
	p, err := r.c.Prepare(r.ctx(), &api.PrepareSnapshotRequest{Key: key, Parent: parent})
	if err != nil {
		r.t.Fatal(err)
	}
	if len(p.GetMounts()) != 1 || p.GetMounts()[0].GetType() != "bind" || !slices.Contains(p.GetMounts()[0].GetOptions(), "ro") {
		r.t.Fatalf("mounts %v, want one that is read-only", p.GetMounts())
	}
	return p.GetMounts()[0].GetSource()
}

func (r *running) list() map[string]*api.Info {
	r.t.Helper()
	s, err := r.c.List(r.ctx(), &api.ListSnapshotsRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]*api.Info{}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			r.t.Fatal(err)
		}
		for _, i := range m.GetInfo() {
			out[i.GetName()] = i
		}
	}
}

func chain(i int) string { return fmt.Sprintf("sha256:%064x", i) }

func TestPullFetchesNothing(t *testing.T) {
	r := start(t, t.TempDir(), "")
	r.pull(chain(1), chain(2))
	// containerd looks for what it was told exists: by label and parent.
	all := r.list()
	if l := all[chain(2)]; len(all) != 2 || l.GetKind() != api.Kind_COMMITTED || l.GetParent() != chain(1) || l.GetLabels()[refLabel] != chain(2) || !l.GetCreatedAt().AsTime().Equal(clock) {
		t.Errorf("snapshots %v", all)
	}
	r.pull(chain(1), chain(2)) // again, as for another image on the same base
	if n := len(r.list()); n != 2 {
		t.Errorf("%d snapshots after the second pull", n)
	}
	src := r.container("k8s.io/9/c", chain(2))
	if ents, err := os.ReadDir(src); err != nil || len(ents) != 0 {
		t.Errorf("the container's root has %v, %v", ents, err)
	}
	m, err := r.c.Mounts(r.ctx(), &api.MountsRequest{Key: "k8s.io/9/c"})
	if err != nil || m.GetMounts()[0].GetSource() != src {
		t.Errorf("mounts later %v, %v", m, err)
	}
	u, err := r.c.Usage(r.ctx(), &api.UsageRequest{Key: "k8s.io/9/c"})
	if err != nil || u.GetSize() != 0 || u.GetInodes() != 0 {
		t.Errorf("usage %v, %v", u, err)
	}
	v, err := r.c.View(r.ctx(), &api.ViewSnapshotRequest{Key: "k8s.io/10/v", Parent: chain(2)})
	if err != nil || len(v.GetMounts()) != 1 {
		t.Errorf("view %v, %v", v, err)
	}
	if st, err := r.c.Stat(r.ctx(), &api.StatSnapshotRequest{Key: "k8s.io/10/v"}); err != nil || st.GetInfo().GetKind() != api.Kind_VIEW {
		t.Errorf("stat %v, %v", st, err)
	}
}

func TestRemovalKeepsParents(t *testing.T) {
	r := start(t, t.TempDir(), "")
	r.pull(chain(1), chain(2))
	r.container("k8s.io/9/c", chain(2))
	rm := func(k string) error { _, err := r.c.Remove(r.ctx(), &api.RemoveSnapshotRequest{Key: k}); return err }
	r.want(rm(chain(1)), codes.FailedPrecondition, "a layer under a layer")
	r.want(rm(chain(2)), codes.FailedPrecondition, "a layer under a container")
	r.want(rm("k8s.io/9/c"), codes.OK, "the container")
	r.want(rm("k8s.io/9/c"), codes.NotFound, "the container again")
	r.want(rm(chain(2)), codes.OK, "the top layer")
	r.want(rm(chain(1)), codes.OK, "the bottom layer")
	if all := r.list(); len(all) != 0 {
		t.Errorf("left: %v", all)
	}
}

func TestNothingCanBePutIn(t *testing.T) {
	r := start(t, t.TempDir(), "")
	r.container("k8s.io/1/c", "")
	_, err := r.c.Commit(r.ctx(), &api.CommitSnapshotRequest{Name: chain(1), Key: "k8s.io/1/c"})
	r.want(err, codes.Unimplemented, "commit")
	_, err = r.c.Mounts(r.ctx(), &api.MountsRequest{Key: chain(1)})
	r.want(err, codes.InvalidArgument, "a layer's files")
}

func TestRefused(t *testing.T) {
	r := start(t, t.TempDir(), "")
	r.pull(chain(1), chain(2))
	r.container("k8s.io/9/c", chain(2))
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[fmt.Sprint(i)] = "x"
	}
	for name, c := range map[string]struct {
		req  *api.PrepareSnapshotRequest
		code codes.Code
	}{
		"a reference that is no chain ID":      {&api.PrepareSnapshotRequest{Key: "k", Labels: map[string]string{refLabel: "sha256:12"}}, codes.InvalidArgument},
		"a reference with a path":              {&api.PrepareSnapshotRequest{Key: "k", Labels: map[string]string{refLabel: "../../etc"}}, codes.InvalidArgument},
		"an empty reference":                   {&api.PrepareSnapshotRequest{Key: "k", Labels: map[string]string{refLabel: ""}}, codes.InvalidArgument},
		"a layer on a container":               {&api.PrepareSnapshotRequest{Key: "k", Parent: "k8s.io/9/c", Labels: map[string]string{refLabel: chain(3)}}, codes.InvalidArgument},
		"a known layer on another":             {&api.PrepareSnapshotRequest{Key: "k", Parent: chain(7), Labels: map[string]string{refLabel: chain(2)}}, codes.InvalidArgument},
		"no key":                               {&api.PrepareSnapshotRequest{}, codes.InvalidArgument},
		"a long key":                           {&api.PrepareSnapshotRequest{Key: strings.Repeat("k", maxKey+1)}, codes.InvalidArgument},
		"a key that cuts an index entry":       {&api.PrepareSnapshotRequest{Key: "a\x00b"}, codes.InvalidArgument},
		"a container under a layer's name":     {&api.PrepareSnapshotRequest{Key: chain(5)}, codes.InvalidArgument},
		"a container on one that is not there": {&api.PrepareSnapshotRequest{Key: "k", Parent: "k8s.io/8/x"}, codes.NotFound},
		"a container on a container":           {&api.PrepareSnapshotRequest{Key: "k", Parent: "k8s.io/9/c"}, codes.InvalidArgument},
		"the same container again":             {&api.PrepareSnapshotRequest{Key: "k8s.io/9/c", Parent: chain(2)}, codes.AlreadyExists},
		"many labels":                          {&api.PrepareSnapshotRequest{Key: "k", Labels: many}, codes.InvalidArgument},
		"a long label":                         {&api.PrepareSnapshotRequest{Key: "k", Labels: map[string]string{"a": strings.Repeat("x", maxLabel)}}, codes.InvalidArgument},
	} {
		before := len(r.list())
		_, err := r.c.Prepare(r.ctx(), c.req)
		r.want(err, c.code, name)
		if n := len(r.list()); n != before {
			t.Errorf("%s: %d snapshots, before %d", name, n, before)
		}
	}
	_, err := r.c.Stat(r.ctx(), &api.StatSnapshotRequest{Key: "k8s.io/8/x"})
	r.want(err, codes.NotFound, "stat of what is not there")
}

// A node that loses the store while containerd keeps its own knows no split: what
// containerd names exists.
func TestLostStore(t *testing.T) {
	r := start(t, t.TempDir(), "")
	st, err := r.c.Stat(r.ctx(), &api.StatSnapshotRequest{Key: chain(2)})
	if err != nil || st.GetInfo().GetKind() != api.Kind_COMMITTED {
		t.Errorf("stat of a layer of before %v, %v", st, err)
	}
	r.container("k8s.io/9/c", chain(2))
	if l := r.list()[chain(2)]; l.GetKind() != api.Kind_COMMITTED || l.GetParent() != "" {
		t.Errorf("the layer of before %v", l)
	}
	// containerd has lost its own too, and pulls anew: the layer gets its parent.
	r.pull(chain(1), chain(2))
	if l := r.list()[chain(2)]; l.GetParent() != chain(1) || l.GetLabels()[refLabel] != chain(2) {
		t.Errorf("the layer pulled anew %v", l)
	}
	_, err = r.c.Remove(r.ctx(), &api.RemoveSnapshotRequest{Key: chain(1)})
	r.want(err, codes.FailedPrecondition, "a layer under one that was known before")
}

func TestRestart(t *testing.T) {
	root := t.TempDir()
	r := start(t, root, "")
	r.pull(chain(1))
	src := r.container("k8s.io/9/c", chain(1))
	if err := Serve(context.Background(), Config{Listen: r.sock + "2", Root: root, Name: "x", Log: slog.New(slog.DiscardHandler), Now: time.Now}); err == nil || !strings.Contains(err.Error(), "another snapshotter") {
		t.Errorf("a second one on the same store: %v", err)
	}
	r.stop()
	for _, junk := range []string{".new-1", strings.Repeat("a", 64)} { // as crashes leave it
		if err := os.Mkdir(filepath.Join(root, "roots", junk), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, root, "")
	if n := len(r.list()); n != 2 {
		t.Errorf("%d snapshots after the restart", n)
	}
	m, err := r.c.Mounts(r.ctx(), &api.MountsRequest{Key: "k8s.io/9/c"})
	if err != nil || m.GetMounts()[0].GetSource() != src {
		t.Errorf("mounts after the restart %v, %v", m, err)
	}
	if ents, err := os.ReadDir(filepath.Join(root, "roots")); err != nil || len(ents) != 1 {
		t.Errorf("roots %v, %v", ents, err)
	}
	if st, err := os.Stat(r.sock); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", st, err)
	}
}

func TestUpdateLabels(t *testing.T) {
	r := start(t, t.TempDir(), "")
	r.pull(chain(1))
	up := func(labels map[string]string, paths ...string) (map[string]string, error) {
		req := &api.UpdateSnapshotRequest{Info: &api.Info{Name: chain(1), Labels: labels}}
		if paths != nil {
			req.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		}
		u, err := r.c.Update(r.ctx(), req)
		return u.GetInfo().GetLabels(), err
	}
	if l, err := up(map[string]string{"a.b/c": "1"}, "labels.a.b/c"); err != nil || l["a.b/c"] != "1" || l[refLabel] != chain(1) {
		t.Errorf("one label %v, %v", l, err)
	}
	if l, err := up(nil, "labels.a.b/c"); err != nil || len(l) != 2 {
		t.Errorf("one label less %v, %v", l, err)
	}
	if l, err := up(map[string]string{"x": "y"}, "labels"); err != nil || len(l) != 1 {
		t.Errorf("all labels %v, %v", l, err)
	}
	_, err := up(nil, "parent")
	r.want(err, codes.InvalidArgument, "another parent")
}
