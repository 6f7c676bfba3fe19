package server

import (
	"net"
	"sync"

	"github.com/cofferproject/coffer/trustee/ratelimit"
)

// maxConns bounds open connections; each costs some ten KiB until its peer has
// proven anything.
const maxConns = 10_000

// limited accepts only while there is room, and no more of one peer than its share.
type limited struct {
	net.Listener
	room  chan struct{}
	done  chan struct{}
	once  sync.Once
	share int // connections of one peer; 0: as many as there are
	over  func()

	mu    sync.Mutex
	peers map[string]int
}

func newLimited(l net.Listener, n, share int, over func()) *limited {
	return &limited{Listener: l, room: make(chan struct{}, n), done: make(chan struct{}), share: share, over: over, peers: map[string]int{}}
}

// Accept waits for room first; the kernel's queue holds who comes meanwhile.
func (l *limited) Accept() (net.Conn, error) {
	for {
		select {
		case l.room <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.room
			return nil, err
		}
		peer := ratelimit.Peer(c.RemoteAddr().String())
		if l.enter(peer) {
			return &limitedConn{Conn: c, leave: func() { l.leave(peer) }}, nil
		}
		c.Close() // it has sent nothing that was read
		<-l.room
		l.over()
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
	once  sync.Once
	leave func()
}

// Close makes room once.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}
