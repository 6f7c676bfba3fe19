package pid1

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
)

// images has every image but "absent".
type images struct{}

func (images) Prepare(_ context.Context, c *podpolicy.Container) (*agent.Image, error) {
	if c.Image == "absent" {
		return nil, errors.New("no such image")
	}
	return &agent.Image{Layers: []string{c.Image}}, nil
}

func TestPulledImagesAreRecordedOnce(t *testing.T) {
	var recorded []string
	fail := false
	r := &recordedImages{Images: images{}, done: map[string]bool{}, record: func(_ context.Context, image, manifest string) error {
		if fail {
			return errors.New("the log is full")
		}
		recorded = append(recorded, image+" "+manifest)
		return nil
	}}
	prepare := func(image, manifest string) error {
		img, err := r.Prepare(t.Context(), &podpolicy.Container{Image: image, ManifestDigest: manifest})
		if (err == nil) != (img != nil) {
			t.Errorf("%s: %v, %v", image, img, err)
		}
		return err
	}
	for range 2 { // a container that starts again
		if err := prepare("a", "sha256:1"); err != nil {
			t.Error(err)
		}
	}
	if err := prepare("absent", "sha256:2"); err == nil {
		t.Error("an image that is not there")
	}
	fail = true
	if err := prepare("b", "sha256:3"); err == nil {
		t.Error("an image that could not be recorded is used")
	}
	var p interface{ Public() string }
	if err := prepare("b", "sha256:3"); !errors.As(err, &p) || !strings.Contains(p.Public(), "image b: ") || !strings.Contains(p.Public(), "recorded") || strings.Contains(p.Public(), "full") {
		t.Errorf("the host is told of %v", err)
	}
	if err := prepare("a", "sha256:1"); err != nil {
		t.Errorf("one that was recorded: %v", err)
	}
	fail = false
	if err := prepare("b", "sha256:3"); err != nil {
		t.Error(err)
	}
	if want := []string{"a sha256:1", "b sha256:3"}; !slices.Equal(recorded, want) {
		t.Errorf("recorded %q", recorded)
	}
}

func TestDialingWaitsForTheKeyHolder(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "aa.sock")
	late := time.AfterFunc(50*time.Millisecond, func() {
		if _, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", sock); err != nil {
			t.Error(err)
		}
	})
	defer late.Stop()
	conn, err := dialPatiently(t.Context(), sock)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dialPatiently(ctx, sock+".none"); err == nil {
		t.Error("dialled nobody")
	}
}
