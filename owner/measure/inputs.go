package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cofferproject/coffer/api/launch"
)

const maxFile = 1 << 30

// inputs are the files of a launch, read once.
type inputs struct {
	kernel, initrd, firmware, vars, teeFirmware []byte

	digests map[string]string
}

func read(spec *launch.Spec) (*inputs, error) {
	in := &inputs{digests: map[string]string{}}
	for _, f := range []struct {
		name string
		file launch.File
		to   *[]byte
	}{
		{"kernel", spec.Kernel, &in.kernel}, {"initrd", spec.Initrd, &in.initrd}, {"firmware", spec.Firmware, &in.firmware},
		{"vars", spec.VarsFile, &in.vars}, {"tee firmware", spec.TEEFirmware, &in.teeFirmware},
	} {
		if f.file.Path == "" {
			continue
		}
		b, err := readFile(f.file.Path)
		if err != nil {
			return nil, fmt.Errorf("measuring the %s: %w", f.name, err)
		}
		sum := sha256.Sum256(b)
		in.digests[f.name] = hex.EncodeToString(sum[:])
		if f.file.SHA256 != "" && f.file.SHA256 != in.digests[f.name] {
			return nil, fmt.Errorf("measuring the %s: %s has SHA-256 %s, not %s", f.name, f.file.Path, in.digests[f.name], f.file.SHA256)
		}
		*f.to = b
	}
	return in, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	if err == nil && len(b) == 0 {
		err = errors.New(path + " is empty")
	}
	return b, err
}
