package attester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// GramineDir is where Gramine has its pseudo-files
// (Gramine documentation, "Attestation and Secret Provisioning").
const GramineDir = "/dev/attestation"

type gramine struct{ dir string }

func openGramine(dir string) (LibraryOS, error) {
	g := gramine{dir}
	b, err := g.read("attestation_type", 64)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("gramine: %w", attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("gramine: %w", err)
	}
	if t := strings.TrimRight(string(b), "\x00\n"); t != "dcap" {
		return nil, fmt.Errorf("gramine: attestation type %q is not dcap", t)
	}
	return g, nil
}

func (g gramine) Quote(_ context.Context, reportData []byte) ([]byte, error) {
	if err := g.write("user_report_data", reportData); err != nil {
		return nil, err
	}
	return g.read("quote", quote.MaxSize)
}

// Report asks for a report to this enclave itself.
func (g gramine) Report(context.Context) ([]byte, error) {
	target, err := g.read("my_target_info", 512)
	if err != nil {
		return nil, err
	}
	if err := g.write("target_info", target); err != nil {
		return nil, err
	}
	if err := g.write("user_report_data", make([]byte, 64)); err != nil {
		return nil, err
	}
	return g.read("report", reportSize)
}

func (g gramine) read(name string, limit int) ([]byte, error) {
	f, err := os.Open(filepath.Join(g.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s: longer than %d bytes", name, limit)
	}
	return b, err
}

func (g gramine) write(name string, b []byte) error {
	f, err := os.OpenFile(filepath.Join(g.dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
