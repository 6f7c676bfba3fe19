package shim

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// TestCreationCutOff: a container whose creation is cut off is removed from the guest once
// that has made it, and its name is free for the next try.
func TestCreationCutOff(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, s *Service, cancel context.CancelFunc){
		"containerd restarts": func(_ *testing.T, _ *Service, cancel context.CancelFunc) { cancel() },
		"kubelet restarts": func(t *testing.T, s *Service, _ context.CancelFunc) {
			began := time.Now()
			if _, err := s.Delete(t.Context(), &api.DeleteRequest{ID: "c1"}); status.Code(err) != codes.NotFound {
				t.Errorf("deleting what is being created: %v", err)
			}
			if d := time.Since(began); d >= 5*time.Second {
				t.Errorf("containerd's clean-up was over before the answer (%s)", d)
			}
		},
		"killed": func(t *testing.T, s *Service, _ context.CancelFunc) {
			if _, err := s.Kill(t.Context(), &api.KillRequest{ID: "c1", Signal: 9}); status.Code(err) != codes.NotFound {
				t.Errorf("killing what is being created: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pulled := make(chan struct{})
				g := &fakeGuest{enforcer: guest(t, testPolicy()), create: func(ctx context.Context) error {
					select {
					case <-pulled:
						return nil
					case <-ctx.Done():
						t.Error("the guest's pull was cut off; over ttrpc it never is")
						return ctx.Err()
					}
				}}
				s, tee := podOf(t, g)
				s.pod.copied["config"] = true
				made := make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { made <- createIn(ctx, t, s, "c1") }()
				synctest.Wait()
				cut(t, s, cancel)
				if err := <-made; status.Code(err) != codes.Canceled {
					t.Errorf("the creation that was cut off: %v", err)
				}
				if err := createIn(t.Context(), t, s, "c2"); err == nil || !strings.Contains(err.Error(), string(podpolicy.ContainerRunning)) {
					t.Errorf("while the guest makes the first: %v", err)
				}
				close(pulled)
				synctest.Wait()
				if err := createIn(t.Context(), t, s, "c2"); err != nil {
					t.Errorf("the next try: %v", err)
				}
				if len(s.containers) != 1 || s.containers["c2"] == nil || len(s.creating) != 0 {
					t.Errorf("tasks: %v, in creation: %v", s.containers, s.creating)
				}
				_ = tee.Destroy()
			})
		})
	}
}

// TestCreationTwice: an id is in use from its first creation on.
func TestCreationTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pulled := make(chan struct{})
		s, tee := podOf(t, &fakeGuest{enforcer: guest(t, testPolicy()), create: func(context.Context) error { <-pulled; return nil }})
		s.pod.copied["config"] = true
		made := make(chan error, 1)
		go func() { made <- createIn(t.Context(), t, s, "c1") }()
		synctest.Wait()
		if err := createIn(t.Context(), t, s, "c1"); status.Code(err) != codes.AlreadyExists {
			t.Errorf("while it is made: %v", err)
		}
		close(pulled)
		if err := <-made; err != nil {
			t.Error(err)
		}
		if err := createIn(t.Context(), t, s, "c1"); status.Code(err) != codes.AlreadyExists {
			t.Errorf("once it is there: %v", err)
		}
		_ = tee.Destroy()
	})
}

// createIn asks for a container as containerd does.
func createIn(ctx context.Context, t *testing.T, s *Service, id string) error {
	dir := t.TempDir()
	b, err := json.Marshal(bundle("/var/lib/kubelet/pods"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, specFile), b, 0o600)
	}
	if err != nil {
		t.Error(err)
	}
	_, err = s.Create(ctx, &api.CreateTaskRequest{ID: id, Bundle: dir})
	return err
}
