package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}`

// fakeQEMU greets, accepts capabilities, then answers each command by script.
func fakeQEMU(t *testing.T, answer func(command string, w io.Writer)) io.ReadWriteCloser {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, greeting)
		sc := bufio.NewScanner(theirs)
		for sc.Scan() {
			var c struct{ Execute string }
			if json.Unmarshal(sc.Bytes(), &c) != nil {
				return
			}
			if c.Execute == "qmp_capabilities" {
				fmt.Fprintln(theirs, `{"return": {}}`)
				continue
			}
			answer(c.Execute, theirs)
		}
	}()
	return ours
}

func TestExecuteAndEvents(t *testing.T) {
	events := make(chan Event, 4)
	c, err := New(context.Background(), fakeQEMU(t, func(cmd string, w io.Writer) {
		if cmd == "bad" {
			fmt.Fprintln(w, `{"error": {"class": "GenericError", "desc": "no"}}`)
			return
		}
		fmt.Fprintln(w, `{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {"seconds": 1}}`)
		fmt.Fprintln(w, `{"return": {"status": "running"}}`)
	}), func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Execute(context.Background(), "query-status", nil)
	if err != nil || string(got) != `{"status": "running"}` {
		t.Fatalf("got %s, %v", got, err)
	}
	if e := <-events; e.Name != "SHUTDOWN" || string(e.Data) != `{"guest": true}` {
		t.Fatalf("event %+v", e)
	}
	var q *Error
	if _, err := c.Execute(context.Background(), "bad", nil); !errors.As(err, &q) || q.Class != "GenericError" {
		t.Fatalf("err = %v", err)
	}
}

func TestSilentQEMU(t *testing.T) {
	c, err := New(context.Background(), fakeQEMU(t, func(string, io.Writer) {}), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Execute(ctx, "query-status", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v", err)
	}
	<-c.Done() // a late reply can be mistaken no more
}

func TestEndedQEMU(t *testing.T) {
	c, err := New(context.Background(), fakeQEMU(t, func(_ string, w io.Writer) { w.(io.Closer).Close() }), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Execute(context.Background(), "quit", nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("err = %v", err)
	}
	<-c.Done()
	if _, err := c.Execute(context.Background(), "query-status", nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("when that is known: err = %v", err)
	}
}

func TestHostileQEMU(t *testing.T) {
	for name, line := range map[string]string{
		"no json":         "hello",
		"empty object":    "{}",
		"two at once":     `{"return": {}, "event": "STOP"}`,
		"endless line":    strings.Repeat("x", MaxMessage+1),
		"second greeting": greeting,
		"two replies":     `{"return": {}}` + "\n" + `{"return": {}}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(context.Background(), fakeQEMU(t, func(_ string, w io.Writer) { fmt.Fprintln(w, line) }), func(Event) {})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Execute(context.Background(), "query-status", nil)
			select {
			case <-c.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("the connection lives on")
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{greeting, `{"return": {}}`, `{"error": {"class": "a", "desc": "b"}}`,
		`{"event": "RESET", "data": {"guest": true}}`, `{"return": null}`, "\n\n", `{"event": 1}`} {
		f.Add([]byte(s + "\n"))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newReader(bytes.NewReader(in))
		for range 100 {
			m, err := r.next()
			if err != nil {
				return
			}
			if m.Event == "" && m.QMP == nil && m.Return == nil && m.Error == nil {
				t.Fatal("an empty message was decoded")
			}
		}
	})
}
