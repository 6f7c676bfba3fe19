package sevowner

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

var measured = &launch.SEVMeasurement{APIMinor: 24, Build: 15, Policy: 63, Measure: bytes.Repeat([]byte{1}, 32), Nonce: bytes.Repeat([]byte{2}, 16)}

func ask(t *testing.T, h http.HandlerFunc) (*launch.SEVSecret, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return Ask(ctx, srv.URL+"/secret", measured)
}

func TestAsk(t *testing.T) {
	want := &launch.SEVSecret{Header: bytes.Repeat([]byte{3}, 52), Secret: bytes.Repeat([]byte{4}, 32)}
	got, err := ask(t, func(w http.ResponseWriter, r *http.Request) {
		m := new(launch.SEVMeasurement)
		if err := json.NewDecoder(r.Body).Decode(m); err != nil || r.Method != http.MethodPost || r.URL.Path != "/secret" || !reflect.DeepEqual(m, measured) {
			t.Errorf("%s %s: %+v, %v", r.Method, r.URL, m, err)
		}
		_ = json.NewEncoder(w).Encode(want)
	})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirection was followed") }))
	defer elsewhere.Close()
	good, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for says, h := range map[string]http.HandlerFunc{
		"HTTP 403": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "not an expected launch", http.StatusForbidden)
		},
		"HTTP 307": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"more than":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+1)) },
		"sev secret":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{")) },
		"header is not": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"unknown field": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"gpa": 4096}`)) },
		"follows":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(good, good...)) },
		"context deadline": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then it is seen that the client goes
			<-r.Context().Done()
		},
	} {
		if s, err := ask(t, h); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v, %v, want %q", s, err, says)
		}
	}
}

// TestAskAgain: a lost answer is asked for again with the same measurement, a refusal is
// not.
func TestAskAgain(t *testing.T) {
	was := pause
	pause = time.Millisecond
	defer func() { pause = was }()
	want := &launch.SEVSecret{Header: bytes.Repeat([]byte{3}, 52), Secret: bytes.Repeat([]byte{4}, 32)}
	for lost, ok := range map[int]bool{1: true, tries - 1: true, tries: false} {
		var bodies []string
		got, err := ask(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if bodies = append(bodies, string(b)); len(bodies) <= lost {
				panic(http.ErrAbortHandler)
			}
			_ = json.NewEncoder(w).Encode(want)
		})
		if (err == nil) != ok || ok && !reflect.DeepEqual(got, want) || len(bodies) != min(lost+1, tries) || bodies[0] != bodies[len(bodies)-1] {
			t.Errorf("%d answers lost: %+v, %v, asked %d times", lost, got, err, len(bodies))
		}
	}
	asked := 0
	if _, err := ask(t, func(w http.ResponseWriter, _ *http.Request) { asked++; http.Error(w, "no", http.StatusForbidden) }); err == nil || asked != 1 {
		t.Errorf("refused: %v, asked %d times", err, asked)
	}
}
