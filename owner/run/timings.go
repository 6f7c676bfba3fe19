package run

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// timings notes when each phase of a run ended.
type timings struct {
	mu     sync.Mutex
	last   time.Time
	phases []phase
}

type phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"` // since the phase before
}

func newTimings() *timings { return &timings{last: time.Now()} }

// mark ends the phase name.
func (t *timings) mark(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.phases = append(t.phases, phase{name, now.Sub(t.last).Seconds()})
	t.last = now
}

func (t *timings) write(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, err := json.MarshalIndent(t.phases, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("--timings: %w", err)
	}
	return nil
}

func jsonLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
