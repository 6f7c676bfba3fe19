package ops

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// checkFor is how long the outcome of a check stands: whoever asks, and however
// often, costs one use of store and audit log in that time.
const (
	checkFor  = time.Second
	checkTime = 3 * time.Second
)

// Check uses a part of the server and says what is wrong with it.
type Check struct {
	Name string
	Do   func(context.Context) error
}

// Ready says whether the server can do its work.
type Ready struct {
	// Note, if set before the first request, gives a line of what is not as it should
	// be and keeps nobody from working; "": nothing.
	Note func() string

	log    *slog.Logger
	now    func() time.Time
	checks []Check

	mu       sync.Mutex
	draining bool
	at       time.Time
	last     error
}

// NewReady makes a Ready of checks.
func NewReady(log *slog.Logger, now func() time.Time, checks ...Check) *Ready {
	return &Ready{log: log, now: now, checks: checks}
}

var errDraining = errors.New("the server is about to stop")

// Drain makes it not ready for good.
func (r *Ready) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Check gives nil or what is wrong.
func (r *Ready) Check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return errDraining
	}
	now := r.now()
	if d := now.Sub(r.at); d >= 0 && d < checkFor {
		return r.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime)
	defer cancel()
	r.last = nil
	for _, c := range r.checks {
		if err := c.Do(ctx); err != nil {
			r.log.Error("not ready", "part", c.Name, "error", err)
			r.last = errors.New(c.Name)
			break
		}
	}
	r.at = now
	return r.last
}

// ServeHTTP is /readyz: 200, or 503 with the name of the part that does not work.
func (r *Ready) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := r.Check(req.Context()); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write([]byte("not ready: " + err.Error() + "\n"))
		return
	}
	text := "ready\n"
	if r.Note != nil {
		if n := r.Note(); n != "" {
			text += n + "\n"
		}
	}
	w.Write([]byte(text))
}

// Handler serves /metrics, /healthz and /readyz, for a listener that only operators
// reach.
func Handler(m *Metrics, r *Ready) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("GET /readyz", r)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = m.Set.WriteTo(w) // the scraper may have gone
	})
	return mux
}
