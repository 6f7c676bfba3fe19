package server

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cofferproject/coffer/trustee/ratelimit"
)

// limited accepts only while there is room, and no more of one peer than its share.
// Where all is taken, the peer that has kept the server waiting for the longest time
// goes (attention): who is slow cannot keep others out by being many.
type limited struct {
	net.Listener
	room  chan struct{}
	done  chan struct{}
	once  sync.Once
	share int    // connections of one peer; 0: as many as there are
	over  func() // one was above its share
	shed  func() // one had to go

	attention attention

	mu    sync.Mutex
	peers map[string]int
}

func newLimited(l net.Listener, n, share int, over, shed func()) *limited {
	return &limited{
		Listener: l, room: make(chan struct{}, n), done: make(chan struct{}), share: share, over: over, shed: shed,
		attention: attention{now: time.Now, moved: make(chan struct{}, 1)}, peers: map[string]int{},
	}
}

// Accept waits for room first; the kernel's queue holds who comes meanwhile.
func (l *limited) Accept() (net.Conn, error) {
	for {
		if !l.enterRoom() {
			return nil, net.ErrClosed
		}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.room
			return nil, err
		}
		peer := ratelimit.Peer(c.RemoteAddr().String())
		if l.enter(peer) {
			p := &limitedConn{Conn: c, attention: &l.attention, leave: func() { l.leave(peer) }}
			l.attention.update(p, func(*limitedConn) {})
			return p, nil
		}
		c.Close() // it has sent nothing that was read
		<-l.room
		l.over()
	}
}

// enterRoom waits for room and makes some; false when the listener was closed.
func (l *limited) enterRoom() bool {
	for {
		select {
		case l.room <- struct{}{}:
			return true
		default:
		}
		c, left := l.attention.longest()
		if c != nil {
			_ = c.Close() // whatever the peer makes of it
			l.shed()
			continue
		}
		var later <-chan time.Time // never: everybody is being served
		if left > 0 {
			later = time.After(left)
		}
		select {
		case l.room <- struct{}{}:
			return true
		case <-later:
		case <-l.attention.moved:
		case <-l.done:
			return false
		}
	}
}

func (l *limited) enter(peer string) bool {
	if l.share == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[peer] >= l.share {
		return false
	}
	l.peers[peer]++
	return true
}

func (l *limited) leave(peer string) {
	<-l.room
	if l.share == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}

// open gives how many connections there are.
func (l *limited) open() int { return len(l.room) }

// Close stops waiting as well.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	attention *attention
	once      sync.Once
	leave     func()
	presented atomic.Pointer[string] // binding value of the certificate that was shown

	spot spot // of attention
}

// shown gives it, or "".
func (c *limitedConn) shown() string {
	if k := c.presented.Load(); k != nil {
		return *k
	}
	return ""
}

// Close makes room once.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.attention.update(c, func(c *limitedConn) { c.spot.gone = true })
		c.leave()
	})
	return err
}

// Write waits for a peer that reads slowly.
func (c *limitedConn) Write(b []byte) (int, error) {
	c.attention.update(c, func(c *limitedConn) { c.spot.blocked++ })
	defer c.attention.update(c, func(c *limitedConn) { c.spot.blocked-- })
	return c.Conn.Write(b)
}
