package run

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Interrupted says that a signal ended the run before the pod ran.
type Interrupted struct{ Signal syscall.Signal }

func (e *Interrupted) Error() string {
	return fmt.Sprintf("%s: ended before the pod ran", unix.SignalName(e.Signal))
}

// signals hands this process' signals, one at a time, to whoever is in charge:
// from the start, so that none ends the process with a TEE half started.
type signals struct {
	ch   chan os.Signal
	mu   sync.Mutex
	what func(syscall.Signal)
}

// catchSignals begins with what as the handler.
func catchSignals(what func(syscall.Signal)) *signals {
	s := &signals{ch: make(chan os.Signal, 8), what: what}
	signal.Notify(s.ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for sig := range s.ch {
			if sig, ok := sig.(syscall.Signal); ok {
				s.mu.Lock()
				s.what(sig)
				s.mu.Unlock()
			}
		}
	}()
	return s
}

// handle changes the handler. It waits for a signal that is being handled.
func (s *signals) handle(what func(syscall.Signal)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.what = what
}

// stop gives the signals back to the process.
func (s *signals) stop() {
	signal.Stop(s.ch)
	close(s.ch)
}
