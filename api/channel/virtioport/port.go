// Package virtioport opens the guest's end of a virtio-serial port and gives it
// the manners of a connection.
//
// Trust zone: guest. The host is on the other end; nothing is parsed here.
//
// A port has no udev link, so it is found by its name in sysfs. It reads as end
// of file both while no host is connected and when one has gone. The first is
// waited out; after the first byte the second ends the connection, and the port
// must be opened anew, which also drops what the departed host left behind.
package virtioport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/channel"
)

const (
	sysDir = "/sys/class/virtio-ports"
	devDir = "/dev"

	// absentPoll is how often a port without a host is looked at: 2 ms cost
	// 16 % of a core under TCG, 100 ms 2 %.
	absentPoll = 100 * time.Millisecond
	findPoll   = 5 * time.Millisecond
)

// ErrNotFound says that the machine has no port of that name.
var ErrNotFound = errors.New("virtio port not found")

// Open finds the port called name and opens it. It waits for the driver to
// announce it until ctx ends.
func Open(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	return open(ctx, sysDir, devDir, name)
}

func open(ctx context.Context, sys, dev, name string) (io.ReadWriteCloser, error) {
	for {
		p, err := find(sys, name)
		if err == nil {
			f, err := os.OpenFile(filepath.Join(dev, p), os.O_RDWR, 0)
			if err == nil {
				return newPort(f), nil
			}
			// Busy: the last session's descriptor is being closed.
			if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.EBUSY) {
				return nil, fmt.Errorf("opening virtio port %s: %w", name, err)
			}
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("opening virtio port %s: %w", name, ErrNotFound)
		case <-time.After(findPoll):
		}
	}
}

// find gives the device name ("vport1p1") of the port called name.
func find(sys, name string) (string, error) {
	ents, err := os.ReadDir(sys)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("listing virtio ports: %w", err)
	}
	for _, e := range ents {
		b, err := os.ReadFile(filepath.Join(sys, e.Name(), "name"))
		if err == nil && string(bytes.TrimSpace(b)) == name {
			return e.Name(), nil
		}
	}
	return "", ErrNotFound
}

// Path gives the device file of the port called name.
func Path(name string) (string, error) {
	p, err := find(sysDir, name)
	if err != nil {
		return "", err
	}
	return filepath.Join(devDir, p), nil
}

// Present reports whether the kernel has named a port so.
func Present(name string) (bool, error) {
	_, err := find(sysDir, name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// port is an open port.
type port struct {
	f         *os.File
	live      bool // a byte has been read; only Read touches it
	closeOnce sync.Once
	closed    chan struct{}
}

func newPort(f *os.File) *port { return &port{f: f, closed: make(chan struct{})} }

// Read waits while no host is connected and ends when a host that has sent
// something is gone.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.f.Read(b)
		if n > 0 {
			p.live = true
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if p.live || len(b) == 0 {
			return 0, err
		}
		select {
		case <-p.closed:
			return 0, os.ErrClosed
		case <-time.After(absentPoll):
		}
	}
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }

func (p *port) Close() error {
	err := os.ErrClosed
	p.closeOnce.Do(func() {
		close(p.closed)
		err = p.f.Close()
	})
	return err
}

// Listen serves the streams of the given kind that hosts open on the port
// channel.PortName, over as many sessions as there come. The port must appear
// within wait.
func Listen(ctx context.Context, kind channel.Kind, wait time.Duration) (*channel.Listener, error) {
	fctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	first, err := Open(fctx, channel.PortName)
	if err != nil {
		return nil, err
	}
	return channel.Listen(ctx, kind, func(ctx context.Context) (*channel.Session, error) {
		for {
			p := first
			first = nil
			if p == nil {
				var err error
				if p, err = Open(ctx, channel.PortName); err != nil {
					return nil, err
				}
			}
			s, err := channel.Guest(ctx, p)
			if err == nil {
				return s, nil
			}
			select { // a host that speaks nonsense may try again, slowly
			case <-ctx.Done():
				return nil, err
			case <-time.After(absentPoll):
			}
		}
	}), nil
}
