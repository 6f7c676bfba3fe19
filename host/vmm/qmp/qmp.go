// Package qmp is a small client of the QEMU Machine Protocol: JSON lines, one
// command at a time, events by callback.
//
// Trust zone: host. A QEMU that its guest has taken over may send anything:
// messages are bounded, a malformed one ends the connection.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
)

// MaxMessage bounds one message in bytes. The largest that is expected, the
// greeting, has about 300.
const MaxMessage = 64 << 10

// ErrClosed says that QEMU closed the connection, usually because it ended.
var ErrClosed = errors.New("qmp: connection closed")

// Event is an asynchronous message.
type Event struct {
	Name string
	Data json.RawMessage
}

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("qmp: %.64s: %.512q", e.Class, e.Desc) }

// Client is one connection. Its methods may be called concurrently.
type Client struct {
	conn    io.ReadWriteCloser
	onEvent func(Event)
	turn    chan struct{} // holds a token while a command runs
	done    chan struct{}

	mu      sync.Mutex
	pending chan message // where the running command waits; nil: none
	err     error        // why the connection ended
}

// New greets QEMU over conn and starts reading; the client owns conn. onEvent is
// called from the reading goroutine and must not block.
func New(ctx context.Context, conn io.ReadWriteCloser, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, turn: make(chan struct{}, 1), done: make(chan struct{})}
	greeting := make(chan message, 1)
	c.pending = greeting
	go c.read()
	if _, err := c.wait(ctx, greeting); err != nil {
		return nil, fmt.Errorf("qmp: waiting for the greeting: %w", err)
	}
	if _, err := c.Execute(ctx, "qmp_capabilities", nil); err != nil {
		c.end(err)
		return nil, err
	}
	return c, nil
}

// Execute runs a command and gives its result. When ctx ends before the reply,
// so does the connection: the late reply would be taken for another command's.
func (c *Client) Execute(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: %w", command, err)
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp: %s: %w", command, context.Cause(ctx))
	}
	reply := make(chan message, 1)
	c.mu.Lock()
	c.pending = reply
	c.mu.Unlock()
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		c.mu.Lock()
		if c.err != nil { // the reader has seen it first, and closed our end
			err = c.err
		}
		c.mu.Unlock()
		return nil, fmt.Errorf("qmp: %s: %w", command, closed(err))
	}
	m, err := c.wait(ctx, reply)
	if err == nil && m.Error != nil {
		err = m.Error
	}
	if err != nil {
		return nil, fmt.Errorf("qmp: %s: %w", command, err)
	}
	return m.Return, nil
}

func (c *Client) wait(ctx context.Context, reply chan message) (message, error) {
	select {
	case m := <-reply:
		return m, nil
	case <-c.done:
		select {
		case m := <-reply: // the last words
			return m, nil
		default:
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return message{}, c.err
	case <-ctx.Done():
		c.end(context.Cause(ctx))
		return message{}, context.Cause(ctx)
	}
}

// Done is closed when the connection has ended and every event was delivered.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Client) Close() error { c.end(ErrClosed); return nil }

// end closes the connection; the reader notices and closes done.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	_ = c.conn.Close()
}

func (c *Client) read() {
	defer close(c.done)
	r := newReader(c.conn)
	for greeted := false; ; {
		m, err := r.next()
		switch {
		case err != nil:
			c.end(closed(err))
			return
		case m.Event != "":
			c.onEvent(Event{m.Event, m.Data})
			continue
		case (m.QMP != nil) == greeted:
			c.end(errors.New("qmp: unexpected message"))
			return
		}
		greeted = true
		c.mu.Lock()
		reply := c.pending
		c.pending = nil
		c.mu.Unlock()
		if reply == nil {
			c.end(errors.New("qmp: a reply to no command"))
			return
		}
		reply <- m
	}
}

// closed gives the ways in which an ended QEMU shows one name.
func closed(err error) error {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return ErrClosed
		}
	}
	return err
}
