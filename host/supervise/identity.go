package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// identity is the content of an identity file.
type identity struct {
	Boot string `json:"boot"`
	Proc
}

// WriteIdentity records a living process in a file, which names that process and no
// other for ever.
func WriteIdentity(path string, pid int) error {
	p, err := Identify(pid)
	if err != nil {
		return err
	}
	b, err := json.Marshal(identity{bootID(), p})
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("recording process %d: %w", pid, err)
	}
	return nil
}

// errOtherBoot stands for a record whose pids mean nothing any more.
var errOtherBoot = errors.New("recorded before the machine's last start")

// ReadIdentity gives the process that WriteIdentity has recorded; it may have ended.
func ReadIdentity(path string) (Proc, error) {
	f, err := os.Open(path)
	if err != nil {
		return Proc{}, err
	}
	defer f.Close()
	var i identity
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&i); err != nil {
		return Proc{}, fmt.Errorf("decoding %s: %w", path, err)
	}
	if i.Boot != bootID() {
		return Proc{}, errOtherBoot
	}
	return i.Proc, nil
}

// Owner gives the launcher that the run directory name under stateRoot is recorded for;
// it may have ended.
func Owner(stateRoot, name string) (Proc, error) {
	root, err := os.OpenRoot(stateRoot)
	if err != nil {
		return Proc{}, err
	}
	defer root.Close()
	fi, err := root.Lstat(name)
	if err != nil {
		return Proc{}, err
	}
	if !runDir(fi) {
		return Proc{}, fs.ErrPermission
	}
	r, err := readRecord(root, name)
	if err != nil {
		return Proc{}, err
	}
	if r.Boot != bootID() {
		return Proc{}, errOtherBoot
	}
	return r.Owner, nil
}
