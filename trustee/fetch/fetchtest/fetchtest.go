// Package fetchtest plays vendors of collateral: servers that answer as AMD's and
// Intel's do, and as they do on bad days.
//
// Trust zone: tests only.
package fetchtest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
)

// Mood is how a vendor answers.
type Mood int

// Moods.
const (
	Well Mood = iota
	Hung
	Limited     // 429 with Retry-After
	Broken      // 500
	Elsewhere   // a redirection
	Huge        // without an end
	Interrupted // half an answer
)

// Vendor is a server.
type Vendor struct {
	URL string

	mu    sync.Mutex
	mood  Mood
	after string // Retry-After
	pages map[string]page
	asked []Request
	now   int // requests in progress
	most  int
	free  chan struct{} // closed when nobody hangs any more
}

type page struct {
	header http.Header
	body   []byte
}

// Request is one that came.
type Request struct {
	Path string // with its query
	At   time.Time
}

// New starts a vendor.
func New(t testing.TB) *Vendor {
	v := &Vendor{pages: map[string]page{}, free: make(chan struct{})}
	s := httptest.NewServer(v)
	t.Cleanup(s.Close)
	t.Cleanup(sync.OnceFunc(func() { close(v.free) })) // before the server is closed
	v.URL = s.URL
	return v
}

// Publish has the vendor serve an item under its origin's path, with its issuer
// chain in a header.
func (v *Vendor) Publish(it *collateral.Item, header string) {
	p := page{http.Header{}, it.Body}
	if header != "" {
		p.header.Set(header, url.QueryEscape(string(it.Chain)))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pages[pathOf(it.Origin)] = p
}

// PublishAt is Publish at a path of its own.
func (v *Vendor) PublishAt(path string, body []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pages[path] = page{http.Header{}, body}
}

func pathOf(origin string) string {
	_, rest, _ := strings.Cut(origin, "://")
	_, path, _ := strings.Cut(rest, "/")
	return "/" + path
}

// Feel sets the mood; after is the Retry-After of Limited.
func (v *Vendor) Feel(m Mood, after string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mood, v.after = m, after
}

// Asked lists the requests so far.
func (v *Vendor) Asked() []Request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]Request{}, v.asked...)
}

// AskedFor counts those of one origin.
func (v *Vendor) AskedFor(origin string) int {
	n := 0
	for _, r := range v.Asked() {
		if r.Path == pathOf(origin) {
			n++
		}
	}
	return n
}

// MostAtOnce is the most requests that were in progress at one time.
func (v *Vendor) MostAtOnce() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.most
}

// ServeHTTP answers.
func (v *Vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.asked = append(v.asked, Request{r.URL.RequestURI(), time.Now()})
	v.now++
	v.most = max(v.most, v.now)
	mood, after := v.mood, v.after
	p, ok := v.pages[r.URL.RequestURI()]
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.now--
		v.mu.Unlock()
	}()
	switch mood {
	case Hung:
		select {
		case <-r.Context().Done():
		case <-v.free:
		}
		return
	case Limited:
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case Broken:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case Elsewhere:
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
		return
	case Huge:
		for part := make([]byte, 64<<10); ; {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	case Interrupted:
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte("half"))
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	for name, values := range p.header {
		w.Header()[name] = values
	}
	w.Write(p.body)
}
