package httpio

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/trustee/store"
)

// Whoever asks again after an outcome that is not known may do it twice.
func TestUnknownOutcome(t *testing.T) {
	for err, nothing := range map[error]bool{store.ErrUnknown: false, store.ErrUnavailable: true} {
		w := httptest.NewRecorder()
		if !WriteStoreError(w, fmt.Errorf("put: %w", err)) || w.Code != 503 {
			t.Errorf("%v: %d", err, w.Code)
		}
		if got := strings.Contains(w.Body.String(), "nothing is released or changed"); got != nothing || (w.Header().Get("Retry-After") != "") != nothing {
			t.Errorf("%v: %s, Retry-After %q", err, w.Body, w.Header().Get("Retry-After"))
		}
	}
}
