package run

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxLogFile bounds a container's log file; beyond it a new one begins and one old one is kept.
const maxLogFile = 16 << 20

// logSink writes one container's output: each line to the terminal with the
// container's name before it (where there are several) and to its log file.
type logSink struct {
	mu     *sync.Mutex // shared by all sinks: lines of different containers do not mix
	out    io.Writer
	prefix string
	file   *os.File
	size   int64
	part   map[string][]byte // unfinished line, by stream
	first  func()            // called once at the first line
}

func newLogSink(mu *sync.Mutex, out io.Writer, dir, name string, withPrefix bool, first func()) (*logSink, error) {
	f, err := os.OpenFile(filepath.Join(dir, logDir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of container %s: %w", name, err)
	}
	s := &logSink{mu: mu, out: out, file: f, part: map[string][]byte{}, first: first}
	if withPrefix {
		s.prefix = name + " | "
	}
	return s, nil
}

// write takes a piece of a stream ("stdout" or "stderr").
func (s *logSink) write(stream string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	buf := append(s.part[stream], b...)
	for {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			break
		}
		s.line(stream, buf[:i+1])
		buf = buf[i+1:]
	}
	// A line without end must not grow without bound: the guest's workload
	// decides what it prints.
	if len(buf) > 64<<10 {
		s.line(stream, append(bytes.Clone(buf), '\n'))
		buf = nil
	}
	s.part[stream] = bytes.Clone(buf)
}

func (s *logSink) line(stream string, b []byte) {
	if s.first != nil {
		s.first()
		s.first = nil
	}
	if s.out != nil {
		_, _ = io.WriteString(s.out, s.prefix)
		_, _ = s.out.Write(b)
	}
	// The kubelet's log format, so that tools that know it work here too.
	rec := fmt.Sprintf("%s %s F %s", time.Now().UTC().Format(time.RFC3339Nano), stream, b)
	if s.size += int64(len(rec)); s.size > maxLogFile {
		s.rotate()
		s.size = int64(len(rec))
	}
	_, _ = s.file.WriteString(rec) // a full disk must not stop the pod
}

// rotate begins a new log file and keeps the last one as NAME.log.1. Where that
// fails the old file goes on: a line too much is better than a line lost.
func (s *logSink) rotate() {
	path := s.file.Name()
	if err := os.Rename(path, path+".1"); err != nil {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	_ = s.file.Close()
	s.file = f
}

// close writes unfinished lines and closes the file.
func (s *logSink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for stream, b := range s.part {
		if len(b) > 0 {
			s.line(stream, append(b, '\n'))
		}
	}
	s.part = map[string][]byte{}
	_ = s.file.Close()
}
