package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/trustee/keyring"
)

// folder is a log in files.
type folder struct {
	dir     string
	maxFile int64
	open    func(path string, flag int) (file, error)

	f    file
	path string
	size int64 // of the durable part of f
}

func newFolder(c *Config) *folder {
	d := &folder{dir: c.Dir, maxFile: c.MaxFile, open: c.open}
	if d.maxFile == 0 {
		d.maxFile = 64 << 20
	}
	if d.open == nil {
		d.open = func(path string, flag int) (file, error) { return os.OpenFile(path, flag, 0o600) }
	}
	return d
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
func (d *folder) load() (end, error) {
	at := end{hash: genesis}
	fs, err := files(d.dir)
	if err != nil || len(fs) == 0 {
		return at, err
	}
	last := len(fs) - 1
	t, err := scan(fs[last], nil)
	if err != nil {
		return at, err
	}
	before := &tail{hash: genesis}
	if last > 0 {
		if before, err = scan(fs[last-1], nil); err != nil {
			return at, err
		}
	}
	switch {
	case t.lines == 0:
		t.seq, t.hash = before.seq, before.hash
	case t.firstPrev != before.hash || t.firstSeq != before.seq+1:
		return at, fmt.Errorf("%s: chain is broken at its first line", filepath.Base(fs[last]))
	}
	at.seq, at.hash, d.size, d.path = t.seq, t.hash, t.good, fs[last]
	if _, err := scan(fs[0], func(seq uint64, line []byte) bool {
		if seq == 1 {
			at.id = hashLine(line)
		}
		return false
	}); err != nil {
		return at, err
	}
	return at, d.recover(at)
}

// recover brings the newest file back to its last durable record: a line that a
// crash or a failed write left unfinished was never acknowledged.
func (d *folder) recover(end) error {
	if d.f != nil {
		_ = d.f.Close() // in an unknown state
		d.f = nil
	}
	if d.path == "" {
		return nil
	}
	f, err := d.open(d.path, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	if err := f.Truncate(d.size); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	d.f = f
	return nil
}

// append writes lines with one sync.
func (d *folder) append(lines []byte, from, _ end) error {
	if d.f == nil || d.size >= d.maxFile {
		if err := d.rotate(from.seq + 1); err != nil {
			return err
		}
	}
	if _, err := d.f.Write(lines); err != nil {
		return err
	}
	if err := d.f.Sync(); err != nil {
		return err
	}
	d.size += int64(len(lines))
	return nil
}

// rotate begins a new file. One of that name is left over from a failed attempt
// and holds nothing that was acknowledged.
func (d *folder) rotate(first uint64) error {
	path := filepath.Join(d.dir, fileName(first))
	f, err := d.open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(0), f.Sync(), keyring.SyncDir(d.dir)); err != nil {
		_ = f.Close()
		return err
	}
	if d.f != nil {
		_ = d.f.Close() // all of it was synced
	}
	d.f, d.path, d.size = f, path, 0
	return nil
}

func (d *folder) close() error {
	if d.f == nil {
		return nil
	}
	return d.f.Close()
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

// read implements medium.
func (d *folder) read(from uint64, fn func(seq uint64, line []byte) bool) error {
	fs, err := files(d.dir)
	if err != nil {
		return err
	}
	// Skip files that end before.
	first := 0
	for i, f := range fs {
		var n uint64
		if _, err := fmt.Sscanf(filepath.Base(f), "audit-%d.jsonl", &n); err == nil && n <= from {
			first = i
		}
	}
	for _, f := range fs[min(first, len(fs)):] {
		more := true
		if _, err := scan(f, func(seq uint64, line []byte) bool {
			if seq >= from {
				more = fn(seq, line)
			}
			return more
		}); err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
	return nil
}
