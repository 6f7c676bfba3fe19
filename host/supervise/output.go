package supervise

import (
	"io"
	"os"
	"strings"
	"time"
)

// Output keeps the first bytes of what a program says and swallows the rest.
type Output struct {
	r    *os.File
	done chan struct{}
	text string
}

const maxOutput = 4 << 10

// NewOutput gives an Output and the file to hand to the program as
// Command.Output; the caller closes that after Start.
func NewOutput() (*Output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	o := &Output{r: r, done: make(chan struct{})}
	go func() {
		defer r.Close()
		defer close(o.done)
		b, err := io.ReadAll(io.LimitReader(r, maxOutput))
		o.text = strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
		if err == nil {
			_, _ = io.Copy(io.Discard, r) // it must not block on a full pipe
		}
	}()
	return o, w, nil
}

// Text gives what an ended program said.
func (o *Output) Text() string {
	select {
	case <-o.done:
		return o.text
	case <-time.After(time.Second): // somebody else holds the pipe
		return ""
	}
}

// Close gives up on a program that never ran.
func (o *Output) Close() { _ = o.r.Close() }
