package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// sweepAge is how old a run directory without a process record must be before
// it counts as abandoned: its maker may be about to start a launcher.
const sweepAge = time.Minute

// Sweep cleans up after runs of which nobody is left: it kills their processes
// and removes their directories under stateRoot. It leaves alone whatever has a
// living owner. It gives the names of the directories removed.
func Sweep(stateRoot string) ([]string, error) {
	root, err := os.OpenRoot(stateRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sweeping: %w", err)
	}
	defer root.Close()
	ents, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("sweeping: %w", err)
	}
	var (
		removed []string
		errs    []error
	)
	for _, e := range ents {
		fi, err := e.Info()
		if err != nil || !runDir(fi) {
			continue
		}
		dir := filepath.Join(stateRoot, e.Name())
		gone, err := sweepOne(root, e.Name(), dir, fi)
		if err != nil {
			errs = append(errs, fmt.Errorf("sweeping %s: %w", e.Name(), err))
		}
		if gone {
			removed = append(removed, e.Name())
		}
	}
	return removed, errors.Join(errs...)
}

// runDir reports whether fi looks like a run directory of this user.
func runDir(fi fs.FileInfo) bool {
	return fi.IsDir() && fi.Mode().Perm() == 0o700 && ownedByUs(fi)
}

func sweepOne(root *os.Root, name, dir string, fi fs.FileInfo) (bool, error) {
	r, err := readRecord(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if time.Since(fi.ModTime()) < sweepAge || makerAlive(root, name) {
			return false, nil
		}
		return true, os.RemoveAll(dir)
	case err != nil: // half written, or of another version: as if without record
		if time.Since(fi.ModTime()) < sweepAge || makerAlive(root, name) {
			return false, nil
		}
		return true, os.RemoveAll(dir)
	case r.Boot != bootID(): // the pids mean nothing any more
		return true, os.RemoveAll(dir)
	case r.Owner.Alive():
		return false, nil
	}
	err = errors.Join(r.killAll(), r.clean(dir), r.cleanDir(dir, 0))
	_, serr := os.Lstat(dir)
	return errors.Is(serr, fs.ErrNotExist), err
}

// makerAlive reports whether the process that state.json names, or any that now
// has its pid, is there. Only the maker's own record would tell more.
func makerAlive(root *os.Root, name string) bool {
	f, err := root.Open(filepath.Join(name, "state.json"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	var s struct {
		PID int `json:"pid"`
	}
	if json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&s) != nil {
		return false
	}
	_, err = Identify(s.PID)
	return err == nil
}
