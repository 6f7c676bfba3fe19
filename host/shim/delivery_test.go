package shim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// How a delivery fails, beside by the guest's word.
var (
	errFull = errors.New("disk full")    // the guest cannot write a chunk
	errLost = context.Canceled           // the guest has done it, or refused, and its answer is lost
	errHeld = context.DeadlineExceeded   // the guest is still at it
	mark    = bytes.Repeat([]byte{7}, 8) // of a file that is another one
)

// copyGuest takes files as the guest does; what fails is told by the request.
type copyGuest struct {
	fakeGuest
	fail func(*agentpb.CopyFileRequest) error
	held *podpolicy.Grant
	took []string
	// again counts what the guest has refused because it had it.
	again int
}

func (g *copyGuest) CopyFile(_ context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	fault := g.fail(r)
	grant, err := g.enforcer.Authorize(r)
	if err != nil {
		if fault != nil {
			return nil, fault
		}
		d, _ := denial.As(err)
		if d.Reason == podpolicy.Replayed {
			g.again++
		}
		b, _ := json.Marshal(d.Public())
		return nil, &guestError{status.New(codes.PermissionDenied, "CopyFileRequest is blocked by policy: "+string(b))}
	}
	switch {
	case errors.Is(fault, errHeld):
		g.held = grant
		return nil, fault
	case errors.Is(fault, errFull):
		grant.Done(fault)
		return nil, fault
	}
	grant.Done(nil)
	g.took = append(g.took, chunkKey(r))
	return &emptypb.Empty{}, fault
}

// try is one attempt of the kubelet's.
type try struct {
	change map[string][]byte // files that it finds otherwise
	gone   []string
	fault  error
	at     string // the chunk where it happens
	reason denial.Reason
}

// TestDelivery: a volume whose delivery has failed is delivered by a later try, whatever
// of it the guest had by then.
func TestDelivery(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), podpolicy.ChunkSize/16*2+1)
	wrong := slices.Concat(mark, big[len(mark):])
	files := map[string][]byte{"app.yaml": []byte("colour: blue"), "big": big, "sub/last": nil}
	const second = "/big//1048576"
	for _, c := range []struct {
		name  string
		tries []try
	}{
		{"at once", []try{{}}},
		{"wrong, then right", []try{
			{change: map[string][]byte{"app.yaml": []byte("colour: pink")}, reason: podpolicy.FileMismatch}, {reason: podpolicy.FileMismatch}, {change: files},
		}},
		{"too long, then right", []try{{change: map[string][]byte{"big": append(wrong, 'x')}, reason: podpolicy.FileMismatch}, {change: files}}},
		{"several chunks, wrong, then right", []try{{change: map[string][]byte{"big": wrong}, reason: podpolicy.FileMismatch}, {reason: podpolicy.FileMismatch}, {change: files}}},
		{"missing, then there", []try{{gone: []string{"sub/last", "app.yaml"}}, {change: files}}},
		{"cut off in the middle of a file", []try{{fault: errFull, at: second}, {fault: errFull, at: second}, {}}},
		{"cut off at a folder", []try{{fault: errFull, at: "/sub//0"}, {}}},
		{"a folder's answer lost", []try{{fault: errLost, at: "/sub//0"}, {}}},
		{"the answer lost in the middle of a file", []try{{fault: errLost, at: second}, {}}},
		{"the answer lost at a file's end", []try{{fault: errLost, at: "/big//2097152"}, {}}},
		{"the answer lost of a file in one chunk", []try{{fault: errLost, at: "/app.yaml//0"}, {}}},
		{"the refusal lost", []try{{change: map[string][]byte{"big": wrong}, fault: errLost, at: "/big//2097152"}, {change: files, reason: podpolicy.OutOfOrder}, {}}},
		{"begun with what is wrong", []try{{change: map[string][]byte{"big": wrong}, fault: errFull, at: second}, {change: files}}},
		{"begun with what is wrong, the answer lost", []try{{change: map[string][]byte{"big": wrong}, fault: errLost, at: "/big//0"}, {change: files}}},
		{"cut off, then shorter, then right", []try{{fault: errFull, at: "/big//2097152"}, {change: map[string][]byte{"big": big[:podpolicy.ChunkSize]}, reason: podpolicy.FileMismatch}, {change: files}}},
		{"done, then another, and the rest fails", []try{{fault: errFull, at: "/sub/last//0"}, {change: map[string][]byte{"app.yaml": []byte("renewed"), "big": wrong}}}},
		{"asked again while the guest is at it", []try{{fault: errHeld, at: second}, {reason: podpolicy.OutOfOrder}, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPolicy()
			p.Volumes[0].Files = map[string]podpolicy.File{}
			for name, content := range files {
				sum := sha256.Sum256(content)
				p.Volumes[0].Files[name] = podpolicy.File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Mode: 0o644}
			}
			g := &copyGuest{}
			g.enforcer = sandboxed(t, p)
			s, tee := podOf(t, g)
			defer func() { _ = tee.Destroy() }()
			s.pod.policy = p
			pods := filepath.Join(t.TempDir(), "pods")
			dir := filepath.Join(pods, "0f1e/volumes/kubernetes.io~configmap/config")
			write(t, dir, files)
			for i, try := range c.tries {
				write(t, dir, try.change)
				for _, name := range try.gone {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				g.fail = func(r *agentpb.CopyFileRequest) error {
					if try.at != "" && strings.HasSuffix(chunkKey(r), try.at) {
						return try.fault
					}
					return nil
				}
				if err := s.pod.copyVolumes(t.Context(), &p.Containers[0], bundle(pods)); try.reason != "" && !denied(err, try.reason) || try.reason == "" && !errors.Is(err, try.fault) {
					t.Fatalf("try %d: %v, want %v%s", i+1, err, try.fault, try.reason)
				}
				if g.held != nil && i > 0 {
					g.held.Done(nil)
					g.held = nil
				}
			}
			if lost := slices.ContainsFunc(c.tries, func(y try) bool { return errors.Is(y.fault, errLost) }); !lost && g.again > 0 {
				t.Errorf("%d times something was sent that the guest had", g.again)
			}
			r, err := create(p, &p.Containers[0], bundle(pods), "c1", "pod1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.enforcer.Authorize(r); err != nil {
				t.Errorf("a container with the volume: %v", err)
			}
			n := len(g.took)
			if err := s.pod.copyVolumes(t.Context(), &p.Containers[0], bundle(pods)); err != nil || len(g.took) != n || !s.pod.copied["config"] {
				t.Errorf("for another container: %v, %d requests", err, len(g.took)-n)
			}
		})
	}
}

// TestAccountDelivery: so are the files of the cluster's API.
func TestAccountDelivery(t *testing.T) {
	p := testPolicy()
	p.Volumes = []podpolicy.Volume{{Name: "account", Kind: podpolicy.VolumeServiceAccount}}
	p.Containers[0].Mounts = []podpolicy.Mount{{Volume: "account", Destination: podpolicy.ServiceAccountDir, ReadOnly: true}}
	g := &copyGuest{}
	g.enforcer = sandboxed(t, p)
	s, tee := podOf(t, g)
	defer func() { _ = tee.Destroy() }()
	s.pod.policy = p
	pods := filepath.Join(t.TempDir(), "pods")
	dir := filepath.Join(pods, "0f1e/volumes/kubernetes.io~projected/kube-api-access-x")
	write(t, dir, map[string][]byte{"namespace": []byte("default"), "token": []byte("no token")})
	g.fail = func(*agentpb.CopyFileRequest) error { return nil }
	for range 2 {
		if err := s.pod.copyVolumes(t.Context(), &p.Containers[0], bundle(pods)); !denied(err, podpolicy.FileMismatch) {
			t.Fatal(err)
		}
	}
	write(t, dir, map[string][]byte{"token": []byte("a.b.c")})
	if err := s.pod.copyVolumes(t.Context(), &p.Containers[0], bundle(pods)); err != nil || s.pod.account == nil {
		t.Error(err)
	}
}

// sandboxed is an Enforcer that has no files yet.
func sandboxed(t *testing.T, p *podpolicy.Policy) *podpolicy.Enforcer {
	t.Helper()
	e := podpolicy.NewEnforcer(p)
	grant, err := e.Authorize(p.CreateSandboxRequest("pod1", nil))
	if err != nil {
		t.Fatal(err)
	}
	grant.Done(nil)
	return e
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		f := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
