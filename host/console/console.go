// Package console captures what a sandbox prints: all of the beginning and the end
// in a file of bounded size, the last lines in memory.
//
// Invariant: what is shown to people holds no control characters.
//
// Trust zone: host. What a guest prints is hostile text.
package console

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// MaxFile bounds the file, in bytes.
	MaxFile = 1 << 20
	tailLen = 4 << 10 // of Tail

	few    = 512 // bytes
	gather = 10 * time.Millisecond
)

// Console is one sandbox's.
type Console struct {
	file *os.File
	size int64

	mu   sync.Mutex
	tail []byte
	done chan struct{}
}

// Capture reads from r until its end and closes both.
func Capture(r io.ReadCloser, file *os.File) *Console {
	c := &Console{file: file, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer file.Close()
		defer r.Close()
		c.follow(r)
	}()
	return c
}

// follow takes what comes until the end. A machine's serial port gives byte by byte, and
// a read for each of them is most of what a launch would cost: after a few bytes it lets
// more of them gather.
func (c *Console) follow(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		_, _ = c.Write(buf[:n])
		if err != nil {
			return
		}
		if n < few {
			time.Sleep(gather)
		}
	}
}

// Write never fails: a full disk must not stop the guest.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - tailLen; n > 0 {
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	c.mu.Unlock()
	if c.size+int64(len(p)) > MaxFile {
		c.shorten()
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
	return len(p), nil
}

// Done is closed when the guest can print no more.
func (c *Console) Done() <-chan struct{} { return c.done }

const cut = "\n[... cut by coffer-node ...]\n"

// shorten keeps the file's first and last quarter.
func (c *Console) shorten() {
	const quarter = MaxFile / 4
	last := make([]byte, quarter)
	n, err := c.file.ReadAt(last, c.size-quarter)
	if err != nil && !errors.Is(err, io.EOF) {
		n = 0
	}
	if c.file.Truncate(quarter) != nil {
		return
	}
	c.size = quarter
	for _, b := range [][]byte{[]byte(cut), last[:n]} {
		w, _ := c.file.WriteAt(b, c.size)
		c.size += int64(w)
	}
	_, _ = c.file.Seek(c.size, io.SeekStart)
}

// Tail gives the last lines, without the control characters by which a guest
// could play tricks on a terminal.
func (c *Console) Tail() string {
	c.mu.Lock()
	b := string(c.tail)
	full := len(c.tail) == tailLen
	c.mu.Unlock()
	if full { // the first line is cut
		if _, rest, ok := strings.Cut(b, "\n"); ok {
			b = rest
		}
	}
	return Printable(b)
}

// escapes are terminal control sequences; firmware sends many.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;:<=>?]*[ -/]*[@-~]|[@-Z\\^_])`)

// Printable drops what no terminal should be told by a guest.
func Printable(s string) string {
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "?"))
}
