package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errExists is what makes containerd skip a layer.
var errExists = status.Error(codes.AlreadyExists, "the layer is the guest's to pull")

var (
	snapshotsBucket = []byte("snapshots") // name: record
	childrenBucket  = []byte("children")  // parent, zero byte, name: nothing
)

// lockWait is how long to wait for another process that has the store.
const lockWait = 2 * time.Second

// store keeps the records. Each method is one transaction.
type store struct {
	db  *bolt.DB
	now func() time.Time
}

func openStore(dir string, now func() time.Time) (*store, error) {
	db, err := bolt.Open(filepath.Join(dir, "snapshots.db"), 0o600, &bolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening the store in %s: another snapshotter has it", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{snapshotsBucket, childrenBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing the store: %w", err), db.Close())
	}
	return &store{db: db, now: now}, nil
}

func (s *store) close() error { return s.db.Close() }

func get(tx *bolt.Tx, name string) (*record, error) {
	b := tx.Bucket(snapshotsBucket).Get([]byte(name))
	if b == nil {
		return nil, nil
	}
	return decode(b)
}

func childKey(parent, name string) []byte { return []byte(parent + "\x00" + name) }

func put(tx *bolt.Tx, name string, r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if r.Parent != "" {
		if err := tx.Bucket(childrenBucket).Put(childKey(r.Parent, name), nil); err != nil {
			return err
		}
	}
	return tx.Bucket(snapshotsBucket).Put([]byte(name), b)
}

// room fails when there are too many snapshots: containerd never has so many.
func room(tx *bolt.Tx) error {
	if tx.Bucket(snapshotsBucket).Stats().KeyN >= maxSnapshots {
		return status.Errorf(codes.ResourceExhausted, "%d snapshots, no more", maxSnapshots)
	}
	return nil
}

// parentOf checks a parent and makes a record of a layer that only containerd knows.
func (s *store) parentOf(tx *bolt.Tx, parent string) error {
	if parent == "" {
		return nil
	}
	r, err := get(tx, parent)
	switch {
	case err != nil:
		return err
	case r == nil && isLayer(parent):
		return put(tx, parent, s.layer("", nil))
	case r == nil:
		return status.Errorf(codes.NotFound, "no parent %q", parent)
	case r.Kind != api.Kind_COMMITTED:
		return status.Errorf(codes.InvalidArgument, "the parent %q is no layer", parent)
	}
	return nil
}

func (s *store) layer(parent string, labels map[string]string) *record {
	now := s.now().UTC()
	return &record{Kind: api.Kind_COMMITTED, Parent: parent, Labels: labels, Created: now, Updated: now}
}

// addLayer records a layer under its chain ID and gives errExists, the answer that
// containerd wants for one that it need not fetch.
func (s *store) addLayer(ref, parent string, labels map[string]string) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := room(tx); err != nil {
			return err
		}
		if err := s.parentOf(tx, parent); err != nil {
			return err
		}
		have, err := get(tx, ref)
		switch {
		case err != nil:
			return err
		case have == nil:
			return put(tx, ref, s.layer(parent, labels))
		case have.Kind != api.Kind_COMMITTED:
			return status.Errorf(codes.InvalidArgument, "%s is no layer", ref)
		case have.Labels[refLabel] == "" && have.Parent == "": // known from its children only
			have.Parent, have.Labels, have.Updated = parent, labels, s.now().UTC()
			return put(tx, ref, have)
		case have.Parent != parent: // a chain ID stands for the whole chain below it
			return status.Errorf(codes.InvalidArgument, "layer %s has the parent %q, not %q", ref, have.Parent, parent)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errExists
}

// add records what a container gets.
func (s *store) add(name string, kind api.Kind, parent, root string, labels map[string]string) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		if err := room(tx); err != nil {
			return err
		}
		if have, err := get(tx, name); err != nil {
			return err
		} else if have != nil {
			return status.Errorf(codes.AlreadyExists, "snapshot %q exists", name)
		}
		if err := s.parentOf(tx, parent); err != nil {
			return err
		}
		now := s.now().UTC()
		return put(tx, name, &record{Kind: kind, Parent: parent, Root: root, Labels: labels, Created: now, Updated: now})
	})
}

// find gives a snapshot. A layer that is unknown here exists if containerd asks for it.
func (s *store) find(name string) (*record, error) {
	var r *record
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		r, err = get(tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if r == nil && isLayer(name) {
		return s.layer("", nil), nil
	}
	if r == nil {
		return nil, status.Errorf(codes.NotFound, "no snapshot %q", name)
	}
	return r, nil
}

// change lets f change the labels of a snapshot.
func (s *store) change(name string, f func(*record) error) (*record, error) {
	var r *record
	err := s.db.Update(func(tx *bolt.Tx) (err error) {
		if r, err = get(tx, name); err != nil {
			return err
		}
		if r == nil {
			return status.Errorf(codes.NotFound, "no snapshot %q", name)
		}
		if err := f(r); err != nil {
			return err
		}
		r.Updated = s.now().UTC()
		return put(tx, name, r)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// remove forgets a snapshot that nothing is built on.
func (s *store) remove(name string) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		r, err := get(tx, name)
		if err != nil {
			return err
		}
		if r == nil {
			return status.Errorf(codes.NotFound, "no snapshot %q", name)
		}
		prefix := childKey(name, "")
		if k, _ := tx.Bucket(childrenBucket).Cursor().Seek(prefix); bytes.HasPrefix(k, prefix) {
			return status.Errorf(codes.FailedPrecondition, "snapshot %q has children", name)
		}
		if r.Parent != "" {
			if err := tx.Bucket(childrenBucket).Delete(childKey(r.Parent, name)); err != nil {
				return err
			}
		}
		return tx.Bucket(snapshotsBucket).Delete([]byte(name))
	})
}

// walk gives every snapshot as it was at one moment.
func (s *store) walk(f func(name string, r *record) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(snapshotsBucket).ForEach(func(k, v []byte) error {
			r, err := decode(v)
			if err != nil {
				return err
			}
			return f(string(k), r)
		})
	})
}

// makeRoot makes the snapshotter's folder: its owner's alone, but for roots.
func makeRoot(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the snapshotter's folder: %w", err)
	}
	return nil
}
