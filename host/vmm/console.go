package vmm

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

const (
	maxConsole = 1 << 20 // of the file
	tailLen    = 4 << 10 // of Tail
)

// console captures what the guest prints: all of the beginning and the end in a
// file of bounded size, the last lines in memory.
type console struct {
	file *os.File
	size int64

	mu   sync.Mutex
	tail []byte
	done chan struct{}
}

// captureConsole reads from r until its end and closes both.
func captureConsole(r io.ReadCloser, file *os.File) *console {
	c := &console{file: file, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer file.Close()
		defer r.Close()
		_, _ = io.Copy(c, r)
	}()
	return c
}

// Write never fails: a full disk must not stop the guest.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - tailLen; n > 0 {
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	c.mu.Unlock()
	if c.size+int64(len(p)) > maxConsole {
		c.shorten()
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
	return len(p), nil
}

const cut = "\n[... cut by coffer-node ...]\n"

// shorten keeps the file's first and last quarter.
func (c *console) shorten() {
	const quarter = maxConsole / 4
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
func (c *console) Tail() string {
	c.mu.Lock()
	b := string(c.tail)
	full := len(c.tail) == tailLen
	c.mu.Unlock()
	if full { // the first line is cut
		if _, rest, ok := strings.Cut(b, "\n"); ok {
			b = rest
		}
	}
	return printable(b)
}

// escapes are terminal control sequences; firmware sends many.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;:<=>?]*[ -/]*[@-~]|[@-Z\\^_])`)

func printable(s string) string {
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "?"))
}
