package channel

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"
)

func frame(typ byte, flags uint16, id, size uint32, body ...byte) []byte {
	b := []byte{0, typ}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, size)
	return append(b, body...)
}

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name  string
		guest bool // the reader is the guest
		in    []byte
		ok    bool
	}{
		{"open and data", true, append(frame(frameWindow, flagSYN, 1, 0), frame(frameData, 0, 1, 3, 1, 2, 3)...), true},
		{"go away", true, frame(frameGoAway, 0, 0, 0), true},
		{"ping", true, frame(2, flagSYN, 0, 7), false},
		{"unknown type", true, frame(4, 0, 1, 0), false},
		{"version", true, append([]byte{1}, frame(frameData, 0, 1, 0)[1:]...), false},
		{"long data", true, frame(frameData, 0, 1, window+1), false},
		{"long window", true, frame(frameWindow, 0, 1, 1<<31), false},
		{"even id", true, frame(frameWindow, flagSYN, 2, 0), false},
		{"id zero", true, frame(frameData, 0, 0, 1, 0), false},
		{"guest opens", false, frame(frameWindow, flagSYN, 1, 0), false},
		{"guest answers", false, frame(frameData, 2, 1, 1, 9), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{1, 5, 64} { // frames cut anywhere
				g := &guard{r: &stepReader{b: c.in, n: step}, opens: c.guest}
				_, err := io.Copy(io.Discard, g)
				if (err == nil) != c.ok || (g.err() == nil) != c.ok {
					t.Errorf("step %d: err = %v, want ok = %v", step, err, c.ok)
				}
			}
		})
	}
}

type stepReader struct {
	b []byte
	n int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b[:min(r.n, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}

func TestTooManyStreamsEndTheSession(t *testing.T) {
	a, b := socketPair(t)
	s := rawHost(t, a, b)
	go func() {
		for {
			if _, _, err := s.Accept(); err != nil {
				return
			}
		}
	}()
	go io.Copy(io.Discard, a)
	for id := uint32(1); id < 2*(MaxStreams+4); id += 2 {
		a.Write(frame(frameWindow, flagSYN, id, 0))
		a.Write(frame(frameData, 0, id, 1, 't'))
		time.Sleep(time.Millisecond) // stay below the backlog
	}
	select {
	case <-s.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the session lives on")
	}
}

// rawHost speaks the host's preamble on a by hand and gives the guest's session.
func rawHost(t testing.TB, a io.ReadWriter, b io.ReadWriteCloser) *Session {
	t.Helper()
	ch := make(chan *Session, 1)
	go func() {
		s, err := Guest(context.Background(), b)
		if err != nil {
			t.Error(err)
		}
		ch <- s
	}()
	own := newNonce()
	a.Write(putMsg(own, nonce{}))
	answer := make([]byte, msgLen)
	if _, err := io.ReadFull(a, answer); err != nil {
		t.Fatal(err)
	}
	var theirs nonce
	copy(theirs[:], answer[len(Magic):])
	a.Write(putMsg(own, theirs))
	s := <-ch
	t.Cleanup(func() { s.Close() })
	return s
}

// FuzzGuest feeds a hostile host's bytes to the guest's end, first as the
// preamble, then as frames after an honest preamble.
func FuzzGuest(f *testing.F) {
	f.Add(false, putMsg(nonce{1}, nonce{}))
	f.Add(true, append(frame(frameWindow, flagSYN, 1, 0), frame(frameData, 0, 1, 2, 't', 'x')...))
	f.Add(true, frame(frameData, 0xffff, 1, 1, 0))
	f.Add(true, bytes.Repeat(frame(frameWindow, flagSYN, 1, 0), 3))
	f.Add(true, append(frame(frameWindow, flagSYN, 1, 0), frame(frameWindow, 12, 1, 0)...))
	f.Fuzz(func(t *testing.T, frames bool, in []byte) {
		a, b := socketPair(t)
		defer a.Close()
		defer b.Close()
		if !frames {
			a.Write(in)
			a.Close()
			s, err := Guest(context.Background(), b)
			if err == nil {
				s.Close()
				t.Fatal("a preamble without the guest's nonce was accepted")
			}
			return
		}
		s := rawHost(t, a, b)
		go io.Copy(io.Discard, a)
		go func() {
			a.Write(in)
			time.Sleep(time.Millisecond)
			a.Close()
		}()
		for {
			_, c, err := s.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Write([]byte("x")); c.Close() }()
		}
	})
}
