package adminapi

import (
	"context"
	"io"
	"net/http"
	"time"
)

// stream is an answer of any length that is made while it is sent.
type stream func(ctx context.Context, w io.Writer) error

// A stream may take longer than an ordinary answer, as long as it moves.
const streamStall = 30 * time.Second

// write sends the stream. What fails in the middle cuts the connection, so that
// nobody takes a part for the whole; a backup has an end of its own besides.
func (s stream) write(c *call, w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := s(c.ctx(), &moving{http.NewResponseController(w), w}); err != nil {
		c.cfg.Log.Error("sending failed", "path", c.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// moving gives every write new time.
type moving struct {
	c *http.ResponseController
	w io.Writer
}

func (m *moving) Write(b []byte) (int, error) {
	if err := m.c.SetWriteDeadline(time.Now().Add(streamStall)); err != nil {
		return 0, err
	}
	return m.w.Write(b)
}
