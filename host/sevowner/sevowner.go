// Package sevowner asks the owner of a launch of SEV or SEV-ES for its secret: a
// client of what coffer sev serve offers (api/launch, SEVMeasurement and SEVSecret).
//
// Trust zone: host. The secret comes encrypted and authenticated for the platform's
// secure processor, so that neither this process nor the network can read or change
// it; a wrong answer makes the launch fail.
package sevowner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

// maxAnswer bounds an answer in bytes: 16 KiB of secret in base64, and more.
const maxAnswer = 64 << 10

// Between tries, and how many there are: the owner answers the same measurement with the
// same packet, so that a lost answer costs nothing.
const tries = 3

var pause = time.Second

// Ask posts a measurement to a URL and gives the packet that is the answer. Where no
// answer comes it asks again.
func Ask(ctx context.Context, url string, m *launch.SEVMeasurement) (*launch.SEVSecret, error) {
	for left := tries - 1; ; left-- {
		s, err := post(ctx, url, m)
		if !errors.As(err, new(lostError)) || left == 0 {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// lostError says that no answer came.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

func post(ctx context.Context, url string, m *launch.SEVMeasurement) (*launch.SEVSecret, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer}
	c := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return nil, lostError{err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, lostError{err}
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("refused with HTTP %d: %.300q", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return launch.ParseSEVSecret(body)
}
