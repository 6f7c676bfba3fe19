package simhw

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/host/filedigest"
)

// Limits of what is read of a process TEE.
const (
	maxProgram   = 512 << 20
	maxOCIConfig = 1 << 20
	maxArguments = 64 << 10
)

// becomeWait is how long the launcher's process may take to become the runtime.
const becomeWait = 5 * time.Second

// readProcess learns from the running runtime what an enclave's hardware would have
// measured of it: its program and arguments as the kernel has them, and the bundle
// that the arguments name. doc is the file that it was given as initdata.
func readProcess(ctx context.Context, pid int, digests filedigest.Cache, doc *os.File) (*Inputs, error) {
	plain, err := readInitdata(doc)
	if err != nil {
		return nil, err
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	r, err := running(ctx, proc)
	if err != nil {
		return nil, err
	}
	m := &libos.Manifest{Flags: r.Flags}
	program, err := os.Open(proc + "/exe")
	if err != nil {
		return nil, fmt.Errorf("its program: %w", err)
	}
	defer program.Close()
	if m.Runtime, err = digests.SHA256(program, maxProgram); err != nil {
		return nil, fmt.Errorf("its program: %w", err)
	}
	bundle, err := os.OpenRoot(r.Bundle)
	if err != nil {
		return nil, fmt.Errorf("its bundle: %w", err)
	}
	defer bundle.Close()
	if m.Agent, err = agentDigest(bundle); err != nil {
		return nil, fmt.Errorf("its root file system: %w", err)
	}
	f, err := bundle.Open(libos.ConfigFile)
	if err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	config, err := readFile(f, maxOCIConfig)
	if err != nil {
		return nil, fmt.Errorf("its configuration: %w", err)
	}
	sum := sha256.Sum256(config)
	m.Config = hex.EncodeToString(sum[:])
	return &Inputs{Process: m, Initdata: plain}, nil
}

// running waits until the process has become the runtime, and reads its arguments.
func running(ctx context.Context, proc string) (*libos.Running, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, becomeWait, errors.New("it did not become the runtime in time"))
	defer cancel()
	for {
		f, err := os.Open(proc + "/cmdline")
		if err != nil {
			return nil, err
		}
		b, err := readFile(f, maxArguments)
		if err != nil {
			return nil, err
		}
		// While the kernel puts the next program in its place, a process has no
		// arguments.
		if len(b) > 0 {
			args, err := libos.SplitArguments(b)
			if err != nil {
				return nil, err
			}
			if args[0] != libos.Start && args[0] != libos.Join {
				return libos.ParseRunning(args)
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// agentDigest measures the one file of the root file system. Anything else in it
// would run unmeasured.
func agentDigest(bundle *os.Root) (string, error) {
	dir := func(name string) ([]fs.DirEntry, error) { return fs.ReadDir(bundle.FS(), name) }
	all, err := dir(libos.RootFS)
	if err != nil {
		return "", err
	}
	for _, e := range all {
		if e.Name() == libos.Agent && e.Type().IsRegular() {
			continue
		}
		if !e.IsDir() || !slices.Contains(libos.Folders, e.Name()) {
			return "", fmt.Errorf("%.100q is not of it", e.Name())
		}
		inside, err := dir(filepath.Join(libos.RootFS, e.Name()))
		if err != nil {
			return "", err
		}
		if len(inside) > 0 {
			return "", fmt.Errorf("%s is not empty", e.Name())
		}
	}
	f, err := bundle.Open(filepath.Join(libos.RootFS, libos.Agent))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return libos.Digest(f, maxProgram)
}

// readInitdata reads the document as the guest will; an empty file is none.
func readInitdata(f *os.File) ([]byte, error) {
	b, err := readFile(f, maxDisk)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	plain, err := initdata.DecodeDevice(io.LimitReader(bytes.NewReader(b), maxDisk))
	if err != nil {
		return nil, fmt.Errorf("its initdata: %w", err)
	}
	if plain == nil {
		plain = []byte{}
	}
	return plain, nil
}

// fromProcess names what is taken from the process, for the simulation note.
func (in *Inputs) fromProcess() string {
	if in.Initdata != nil {
		return "library OS, its flags and configuration, agent and initdata"
	}
	return "library OS, its flags and configuration, agent and the absence of initdata"
}
