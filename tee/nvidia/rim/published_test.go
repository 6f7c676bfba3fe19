package rim

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/internal/certchain"
)

// TestPublished reads NVIDIA's own manifests, where somebody has put them: the
// folder that COFFER_NVIDIA_RIMS names. They are not among the shared vectors.
func TestPublished(t *testing.T) {
	dir := os.Getenv("COFFER_NVIDIA_RIMS")
	if dir == "" {
		t.Skip("COFFER_NVIDIA_RIMS names no folder with .swidtag files")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.swidtag"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
			continue
		}
		last := m.Chain[len(m.Chain)-1:]
		if _, err := certchain.Verify(m.Chain, last, m.Chain[0].NotBefore.Add(time.Hour)); err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
		}
		t.Logf("%s: version %s, %d measurements, root %x", filepath.Base(f), m.Version, len(m.Golden), certchain.SPKI(last[0]))
	}
}
