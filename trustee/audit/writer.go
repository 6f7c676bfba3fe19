package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/keyring"
)

const maxLine = 64 << 10

// genesis is the Prev of the first record.
var genesis = strings.Repeat("0", 2*sha256.Size)

// writer is the file side of a log: at any time either in step with the disk, or
// broken and to be recovered.
type writer struct {
	cfg  *Config
	f    file
	path string
	size int64 // of the durable part of f
	seq  uint64
	prev string
	id   string // hash of the first record; "" if there is none, or not here any more
	bad  bool
}

func fileName(firstSeq uint64) string { return fmt.Sprintf("audit-%020d.jsonl", firstSeq) }

// files lists the log's files, the oldest first.
func files(dir string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		if n := e.Name(); strings.HasPrefix(n, "audit-") && strings.HasSuffix(n, ".jsonl") && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, n))
		}
	}
	slices.Sort(out)
	return out, nil
}

// load finds the end of the chain on disk and opens the newest file there.
func (w *writer) load() error {
	w.seq, w.prev = 0, genesis
	fs, err := files(w.cfg.Dir)
	if err != nil || len(fs) == 0 {
		return err
	}
	last := len(fs) - 1
	end, err := scan(fs[last], nil)
	if err != nil {
		return err
	}
	before := &tail{hash: genesis}
	if last > 0 {
		if before, err = scan(fs[last-1], nil); err != nil {
			return err
		}
	}
	switch {
	case end.lines == 0:
		end.seq, end.hash = before.seq, before.hash
	case end.firstPrev != before.hash || end.firstSeq != before.seq+1:
		return fmt.Errorf("%s: chain is broken at its first line", filepath.Base(fs[last]))
	}
	w.seq, w.prev, w.size, w.path = end.seq, end.hash, end.good, fs[last]
	if _, err := scan(fs[0], func(seq uint64, line []byte) bool {
		if seq == 1 {
			w.id = hashLine(line)
		}
		return false
	}); err != nil {
		return err
	}
	return w.reopen()
}

// reopen brings the newest file back to its last durable record: a line that a
// crash or a failed write left unfinished was never acknowledged.
func (w *writer) reopen() error {
	if w.f != nil {
		_ = w.f.Close() // in an unknown state
		w.f = nil
	}
	if w.path == "" {
		return nil
	}
	f, err := w.cfg.open(w.path, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	if err := f.Truncate(w.size); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	w.f = f
	return nil
}

// write appends a group with one sync.
func (w *writer) write(group []*pending, now time.Time) error {
	if w.bad {
		if err := w.reopen(); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		w.bad = false
	}
	if len(group) == 0 {
		return nil
	}
	if err := w.append(group, now.UTC()); err != nil {
		w.bad = true
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

func (w *writer) append(group []*pending, now time.Time) error {
	if w.f == nil || w.size >= w.cfg.MaxFile {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	var buf []byte
	seq, prev, id := w.seq, w.prev, w.id
	for _, p := range group {
		seq++
		p.entry.Seq, p.entry.Time, p.entry.Prev = seq, now, prev
		line, err := json.Marshal(p.entry)
		if err != nil {
			return err
		}
		if len(line) >= maxLine {
			return fmt.Errorf("record of %d bytes, at most %d", len(line), maxLine)
		}
		if prev = hashLine(line); seq == 1 {
			id = prev
		}
		buf = append(append(buf, line...), '\n')
	}
	if _, err := w.f.Write(buf); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.seq, w.prev, w.id, w.size = seq, prev, id, w.size+int64(len(buf))
	return nil
}

// rotate begins a new file. One of that name is left over from a failed attempt
// and holds nothing that was acknowledged.
func (w *writer) rotate() error {
	path := filepath.Join(w.cfg.Dir, fileName(w.seq+1))
	f, err := w.cfg.open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(0), f.Sync(), keyring.SyncDir(w.cfg.Dir)); err != nil {
		_ = f.Close()
		return err
	}
	if w.f != nil {
		_ = w.f.Close() // all of it was synced
	}
	w.f, w.path, w.size = f, path, 0
	return nil
}

func (w *writer) close() error {
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}

func hashLine(line []byte) string {
	s := sha256.Sum256(line)
	return hex.EncodeToString(s[:])
}

// tail tells how far a file's chain is good.
type tail struct {
	lines     int
	good      int64 // bytes up to and with the last whole line
	firstSeq  uint64
	firstPrev string
	seq       uint64
	hash      string
}

// scan walks a file and checks its chain. visit, if given, sees each record's
// line until it gives false.
func scan(path string, visit func(seq uint64, line []byte) bool) (*tail, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := &tail{hash: genesis}
	r := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return t, nil // an unfinished line, or none
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			if whole, err := skipLine(r); err != nil || !whole {
				return t, err // unfinished as well
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", filepath.Base(path), t.lines+1, err)
		}
		line = line[:len(line)-1]
		var e struct {
			Seq  uint64 `json:"seq"`
			Prev string `json:"prev"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", filepath.Base(path), t.lines+1, err)
		}
		if t.lines == 0 {
			t.firstSeq, t.firstPrev = e.Seq, e.Prev
		} else if e.Prev != t.hash || e.Seq != t.seq+1 {
			return nil, fmt.Errorf("%s: chain is broken at line %d", filepath.Base(path), t.lines+1)
		}
		t.lines++
		t.good += int64(len(line)) + 1
		t.seq, t.hash = e.Seq, hashLine(line)
		if visit != nil && !visit(e.Seq, line) {
			return t, nil
		}
	}
}

// skipLine reads on to the end of an overlong line and reports whether it has one.
func skipLine(r *bufio.Reader) (bool, error) {
	for {
		_, err := r.ReadSlice('\n')
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, io.EOF):
			return false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
	}
}

// Verify checks the whole chain of a folder and gives the number of records.
func Verify(dir string) (uint64, error) {
	fs, err := files(dir)
	if err != nil {
		return 0, fmt.Errorf("audit: %w", err)
	}
	prev, seq := genesis, uint64(0)
	for _, f := range fs {
		t, err := scan(f, nil)
		if err != nil {
			return 0, fmt.Errorf("audit: %w", err)
		}
		if t.lines == 0 {
			continue
		}
		if t.firstPrev != prev || t.firstSeq != seq+1 {
			return 0, fmt.Errorf("audit: %s: chain is broken at its first line", filepath.Base(f))
		}
		prev, seq = t.hash, t.seq
	}
	return seq, nil
}

// Read gives the lines of records with numbers above after, at most limit of
// them and about maxBytes.
func (l *Log) Read(after uint64, limit, maxBytes int) ([][]byte, error) {
	fs, err := files(l.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	// Skip files that end before.
	first := 0
	for i, f := range fs {
		var n uint64
		if _, err := fmt.Sscanf(filepath.Base(f), "audit-%d.jsonl", &n); err == nil && n <= after+1 {
			first = i
		}
	}
	var out [][]byte
	size := 0
	for _, f := range fs[min(first, len(fs)):] {
		full := false
		if _, err := scan(f, func(seq uint64, line []byte) bool {
			if seq > after {
				out = append(out, slices.Clone(line))
				size += len(line)
			}
			full = len(out) >= limit || size >= maxBytes
			return !full
		}); err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		if full {
			break
		}
	}
	return out, nil
}
