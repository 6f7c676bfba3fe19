// Package measure computes what AWS's hypervisor will measure of an enclave
// image (EIF) made of a kernel, a command line and ramdisks: PCR 0, 1 and 2, by
// the rules of AWS's nitro-cli (image format, measurement of sections).
//
// Invariants: files are read once, bounded, in a stream; nothing is launched.
//
// Trust zone: owner.
package measure

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/nitro"
)

// maxFile bounds a file, in bytes.
const maxFile = 2 << 30

// Image holds the registers that an image decides.
type Image struct {
	PCR0, PCR1, PCR2 []byte
}

// EIF measures the sections of an image in their order.
func EIF(kernel io.Reader, cmdline string, ramdisks ...io.Reader) (*Image, error) {
	if kernel == nil || len(ramdisks) == 0 {
		return nil, errors.New("measuring an enclave: a kernel and a ramdisk are needed")
	}
	image, boot, app := sha512.New384(), sha512.New384(), sha512.New384()
	read := func(what string, r io.Reader, to ...io.Writer) error {
		n, err := io.Copy(io.MultiWriter(to...), io.LimitReader(r, maxFile+1))
		if err == nil && n > maxFile {
			err = fmt.Errorf("more than %d bytes", maxFile)
		}
		if err != nil {
			return fmt.Errorf("measuring an enclave: %s: %w", what, err)
		}
		return nil
	}
	if err := read("kernel", kernel, image, boot); err != nil {
		return nil, err
	}
	if err := read("command line", bytes.NewReader([]byte(cmdline)), image, boot); err != nil {
		return nil, err
	}
	for i, r := range ramdisks {
		second := boot
		if i > 0 {
			second = app
		}
		if err := read("ramdisk", r, image, second); err != nil {
			return nil, err
		}
	}
	pcr := func(h hash.Hash) []byte { return nitro.Extend(make([]byte, nitro.PCRSize), h.Sum(nil)) }
	return &Image{pcr(image), pcr(boot), pcr(app)}, nil
}

// FromSpec measures what a LaunchSpec names: kernel, command line, and the initrd
// as the one ramdisk. vCPUs and memory are in no register of an enclave.
func FromSpec(s *launch.Spec) (*Image, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Initrd.Path == "" {
		return nil, errors.New("measuring an enclave: no initrd")
	}
	kernel, err := open(s.Kernel)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	initrd, err := open(s.Initrd)
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	k, i := sha256.New(), sha256.New()
	img, err := EIF(io.TeeReader(kernel, k), s.Cmdline, io.TeeReader(initrd, i))
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		file launch.File
		h    hash.Hash
	}{{s.Kernel, k}, {s.Initrd, i}} {
		if have := hex.EncodeToString(f.h.Sum(nil)); f.file.SHA256 != "" && f.file.SHA256 != have {
			return nil, fmt.Errorf("measuring an enclave: %s has SHA-256 %s, not %s", f.file.Path, have, f.file.SHA256)
		}
	}
	return img, nil
}

func open(f launch.File) (*os.File, error) {
	r, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("measuring an enclave: %w", err)
	}
	return r, nil
}

// Role gives PCR 3 for the ARN of the parent instance's IAM role, Instance PCR 4
// for the parent's instance id.
func Role(arn string) []byte { return ofText(arn) }

// Instance gives PCR 4.
func Instance(id string) []byte { return ofText(id) }

func ofText(s string) []byte {
	h := sha512.Sum384([]byte(s))
	return nitro.Extend(make([]byte, nitro.PCRSize), h[:])
}
