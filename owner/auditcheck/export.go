package auditcheck

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/api/auditlog"
)

// Files of an export, as Folder reads them.
const (
	exportFile = "audit-00000000000000000001.jsonl"
	// WitnessFile is a witness of what was exported.
	WitnessFile = "witness.json"
)

// Exported is a log that is in a folder now.
type Exported struct {
	Log    string `json:"log"`    // hash of its first line
	SHA256 string `json:"sha256"` // auditlog.Digest, hex, which is that of the file
	// End says that the last record is signed, and nothing follows what is vouched for.
	End bool `json:"end"`
	*Report
}

// Export checks a log while it writes it, with its checkpoints and a witness, into a new
// folder, which is on disk afterwards or not there.
func Export(ctx context.Context, s Source, o Options, dir string) (_ *Exported, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	f, err := os.OpenFile(filepath.Join(dir, exportFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	defer f.Close()
	t := &tee{Source: s, w: bufio.NewWriter(f), d: auditlog.NewDigest()}
	out := new(Exported)
	if out.Report, err = Run(ctx, t, o); err != nil {
		return nil, err
	}
	if out.Records == 0 {
		return nil, errors.New("export: the log is empty")
	}
	var signed []byte
	for _, c := range t.signed {
		line, err := json.Marshal(c.Checkpoint)
		if err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
		signed = append(append(signed, line...), '\n')
	}
	newest, err := out.Witness.Verify()
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	out.End = newest.Seq == out.Records
	out.Log, out.SHA256 = t.first, t.d.Hex()
	if err := errors.Join(t.w.Flush(), f.Sync(), writeSynced(filepath.Join(dir, checkpointFile), signed)); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	if err := WriteWitness(filepath.Join(dir, WitnessFile), &out.Witness); err != nil {
		return nil, err
	}
	if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return out, nil
}

// tee writes down what a source gives.
type tee struct {
	Source
	w      *bufio.Writer
	d      *auditlog.Digest
	first  string // hash of the first line
	signed []auditlog.Signed
}

// Lines implements Source.
func (t *tee) Lines(ctx context.Context, fn func([]byte) error) error {
	chain := auditlog.NewChain()
	return t.Source.Lines(ctx, func(line []byte) error {
		if err := fn(line); err != nil {
			return err
		}
		if err := chain.Next(line); err != nil {
			return err
		}
		t.first = chain.First
		t.d.Add(line)
		if _, err := t.w.Write(line); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		return t.w.WriteByte('\n')
	})
}

// Checkpoints implements Source.
func (t *tee) Checkpoints(ctx context.Context) (_ []auditlog.Signed, err error) {
	t.signed, err = t.Source.Checkpoints(ctx)
	return t.signed, err
}

// Identify checks a log and gives the hash of its first line and its digest.
func Identify(ctx context.Context, s Source, o Options) (log, digest string, err error) {
	t := &tee{Source: s, w: bufio.NewWriter(io.Discard), d: auditlog.NewDigest()}
	if _, err := Run(ctx, t, o); err != nil {
		return "", "", err
	}
	return t.first, t.d.Hex(), nil
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
