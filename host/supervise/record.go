package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// RecordFile is the file in a run directory that names its processes.
const RecordFile = "pids.json"

const maxRecord = 64 << 10

// record is the content of RecordFile and the state a supervisor works on.
type record struct {
	Boot   string          `json:"boot"`
	Owner  Proc            `json:"owner"`  // the launcher
	Parent Proc            `json:"parent"` // who asked for the sandbox and made the run directory
	Procs  map[string]Proc `json:"procs"`
	Files  []string        `json:"files"` // names in the run directory that the launcher makes
}

func (r *record) write(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+RecordFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("recording processes: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, RecordFile)); err != nil {
		return fmt.Errorf("recording processes: %w", err)
	}
	return nil
}

func readRecord(root *os.Root, dir string) (*record, error) {
	f, err := root.Open(filepath.Join(dir, RecordFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRecord {
		return nil, errors.New("process record too long")
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("decoding process record: %w", err)
	}
	return r, nil
}

// killAll kills every recorded process, all at once.
func (r *record) killAll() error {
	errc := make(chan error, len(r.Procs))
	for _, p := range r.Procs {
		go func() { errc <- p.Kill(killTimeout) }()
	}
	var errs []error
	for range r.Procs {
		errs = append(errs, <-errc)
	}
	return errors.Join(errs...)
}

// clean removes what the launcher made in dir.
func (r *record) clean(dir string) error {
	var errs []error
	for _, n := range append([]string{RecordFile, "." + RecordFile}, r.Files...) {
		if filepath.IsLocal(n) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, n)))
		}
	}
	return errors.Join(errs...)
}

// cleanDir removes dir itself if the process that made it is gone, or goes
// within d. Otherwise that process will.
func (r *record) cleanDir(dir string, d time.Duration) error {
	if !r.Parent.WaitGone(d) {
		return nil
	}
	return os.RemoveAll(dir)
}
