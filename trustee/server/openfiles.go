package server

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Connections. Each costs some ten KiB until its peer has proven anything, and a
// file descriptor.
const (
	maxConns = 10_000 // of one listener
	minConns = 64     // of one listener; with fewer no server is worth starting

	// spareFiles are for the store, the audit log, certificates, witnesses, plugins,
	// vendors and the operators' listener: a flood must not keep a record from disk.
	spareFiles = 256
)

var errFewFiles = errors.New("too few files may be open at once")

// openFiles gives how many files this process may have open. Go's runtime has raised
// that to the hard limit.
func openFiles() (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return r.Cur, nil
}

// connections gives how many each listener may have, of the files that may be open and
// those that the rest of the server needs.
func connections(files, spare, listeners uint64) (int, error) {
	if least := spare + minConns*listeners; files < least {
		return 0, fmt.Errorf("%w: %d, at least %d (ulimit -n, LimitNOFILE=)", errFewFiles, files, least)
	}
	return int(min((files-spare)/listeners, maxConns)), nil
}

// boundConnections decides how many connections listeners take.
func (s *Server) boundConnections() error {
	files, err := openFiles()
	if err != nil {
		return err
	}
	listeners := uint64(1)
	for _, addr := range []string{s.cfg.Services.Attestation, s.cfg.Services.Reference} {
		if addr != "" {
			listeners++
		}
	}
	if s.conns, err = connections(files, spareFiles+uint64(max(s.cfg.DatabaseConnections, 0)), listeners); err != nil {
		return err
	}
	s.metrics.Gauge("connections_limit", "Connections that there may be.", func() float64 { return float64(s.conns) })
	if s.conns < maxConns {
		s.cfg.Log.Warn("connections are bounded by the limit of open files (ulimit -n, LimitNOFILE=)", "connections", s.conns, "most", maxConns, "open_files", files)
		return nil
	}
	s.cfg.Log.Info("connections are bounded", "connections", s.conns)
	return nil
}
