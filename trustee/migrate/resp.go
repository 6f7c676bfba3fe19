package migrate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Limits of what a Redis server answers.
const (
	maxReplyLine  = 4 << 10 // bytes of a line, errors included
	maxReplyArray = 100_000 // elements
	maxReplyDepth = 3
)

// redisError is an error that the server answers.
type redisError string

// Error gives the server's text, which may hold what it likes.
func (e redisError) Error() string { return fmt.Sprintf("the server says %.200q", string(e)) }

// reply reads one answer of protocol version 2 (RESP2): a string (simple or bulk)
// becomes []byte, nil where it is the null one; an integer int64; an array []any; an
// error redisError, as a value.
func reply(r *bufio.Reader, bulk int64) (any, error) { return replyAt(r, bulk, 0) }

func replyAt(r *bufio.Reader, bulk int64, depth int) (any, error) {
	if depth > maxReplyDepth {
		return nil, errors.New("redis: answer is nested too deeply")
	}
	line, err := replyLine(r)
	if err != nil {
		return nil, err
	}
	if line == "" {
		return nil, errors.New("redis: answer has no type")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return []byte(rest), nil
	case '-':
		return redisError(rest), nil
	case ':':
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return nil, errors.New("redis: answer is no number")
		}
		return n, nil
	case '$':
		n, err := replyLength(rest, bulk)
		if err != nil || n < 0 {
			return []byte(nil), err
		}
		return replyBulk(r, n)
	case '*':
		n, err := replyLength(rest, maxReplyArray)
		if err != nil || n < 0 {
			return []any(nil), err
		}
		out := []any{}
		for range n {
			v, err := replyAt(r, bulk, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	return nil, fmt.Errorf("redis: answer of unknown type %q", kind)
}

// replyLine reads to the end of a line.
func replyLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", unexpected(err)
		}
		if b == '\n' {
			break
		}
		if line = append(line, b); len(line) > maxReplyLine {
			return "", errors.New("redis: a line of the answer is too long")
		}
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return string(line[:n-1]), nil
	}
	return "", errors.New("redis: a line of the answer does not end as it should")
}

// replyLength reads a length; -1 is null.
func replyLength(text string, most int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < -1 || n > most {
		return 0, fmt.Errorf("redis: a length of %.20q is none, or more than %d", text, most)
	}
	return n, nil
}

// replyBulk reads n bytes, in steps: a length is no promise that they come.
func replyBulk(r *bufio.Reader, n int64) ([]byte, error) {
	out := make([]byte, 0, min(n, 64<<10))
	for int64(len(out)) < n {
		step := min(n-int64(len(out)), 64<<10)
		at := len(out)
		out = append(out, make([]byte, step)...)
		if _, err := io.ReadFull(r, out[at:]); err != nil {
			return nil, unexpected(err)
		}
	}
	var end [2]byte
	if _, err := io.ReadFull(r, end[:]); err != nil {
		return nil, unexpected(err)
	}
	if end != [2]byte{'\r', '\n'} {
		return nil, errors.New("redis: a text of the answer does not end as it should")
	}
	return out, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("redis: %w", err)
}
