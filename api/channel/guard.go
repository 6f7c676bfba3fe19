package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// yamux frame header: version, type, flags (2), stream id (4), length (4).
const (
	frameHeader = 12

	frameData   = 0
	frameWindow = 1
	frameGoAway = 3

	flagSYN = 1
)

// guard watches the frames that arrive and breaks the connection at the first
// one that an honest peer of ours never sends. yamux alone would start a
// goroutine per ping and let either end open streams.
type guard struct {
	r      io.Reader
	opens  bool // the peer may open streams (we are the guest)
	hdr    [frameHeader]byte
	have   int
	body   uint32 // bytes of the current data frame still to come
	failed error

	mu  sync.Mutex
	bad error // copy of failed for Session.Err
}

func (g *guard) Read(p []byte) (int, error) {
	if g.failed != nil {
		return 0, g.failed
	}
	n, err := g.r.Read(p)
	if e := g.feed(p[:n]); e != nil {
		g.failed = e
		g.mu.Lock()
		g.bad = e
		g.mu.Unlock()
		return 0, e
	}
	return n, err
}

func (g *guard) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bad
}

func (g *guard) feed(b []byte) error {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(b)))
			g.body -= uint32(n)
			b = b[n:]
			continue
		}
		n := copy(g.hdr[g.have:], b)
		g.have += n
		b = b[n:]
		if g.have == frameHeader {
			g.have = 0
			if err := g.header(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *guard) header() error {
	var (
		typ   = g.hdr[1]
		flags = binary.BigEndian.Uint16(g.hdr[2:])
		id    = binary.BigEndian.Uint32(g.hdr[4:])
		size  = binary.BigEndian.Uint32(g.hdr[8:])
	)
	if g.hdr[0] != 0 {
		return fmt.Errorf("guest channel: frame version %d", g.hdr[0])
	}
	switch typ {
	case frameData:
		if size > window {
			return fmt.Errorf("guest channel: frame of %d bytes, at most %d", size, window)
		}
		g.body = size
	case frameWindow:
		if size > window {
			return fmt.Errorf("guest channel: window update of %d bytes, at most %d", size, window)
		}
	case frameGoAway:
		return nil
	default:
		return fmt.Errorf("guest channel: frame type %d", typ)
	}
	// Streams that the host opens have odd ids.
	if id%2 != 1 {
		return fmt.Errorf("guest channel: stream id %d", id)
	}
	if flags&flagSYN != 0 && !g.opens {
		return errors.New("guest channel: the guest tried to open a stream")
	}
	return nil
}
