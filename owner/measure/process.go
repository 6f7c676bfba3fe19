package measure

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"sync"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/tee/intel/quote"
	sgx "github.com/cofferproject/coffer/tee/sgx/measure"
)

func init() { calculators[launch.SGXSim] = measureProcess }

// programs remembers the digests of large files, since who looks for an explanation
// measures many launches of the same ones. A file that was changed is another.
var programs struct {
	sync.Mutex
	sums map[programFile]string
}

type programFile struct {
	path        string
	size, mtime int64
}

// programDigest gives the hex SHA-256 of a launch's file without having it in memory.
func programDigest(f launch.File) (string, error) {
	src, err := os.Open(f.Path)
	if err != nil {
		return "", err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", f.Path)
	}
	key := programFile{f.Path, fi.Size(), fi.ModTime().UnixNano()}
	programs.Lock()
	defer programs.Unlock()
	sum, ok := programs.sums[key]
	if !ok {
		if sum, err = libos.Digest(src, launch.MaxFile); err != nil {
			return "", fmt.Errorf("%s: %w", f.Path, err)
		}
		if programs.sums == nil {
			programs.sums = map[programFile]string{}
		}
		programs.sums[key] = sum
	}
	if f.SHA256 != "" && f.SHA256 != sum {
		return "", fmt.Errorf("%s has SHA-256 %s, not %s", f.Path, sum, f.SHA256)
	}
	return sum, nil
}

// readProcess gives the digests of a process TEE's programs.
func readProcess(spec *launch.Spec) (*inputs, error) {
	in := &inputs{digests: map[string]string{}}
	for name, f := range map[string]launch.File{"kernel": spec.Kernel, "initrd": spec.Initrd} {
		sum, err := programDigest(f)
		if err != nil {
			return nil, fmt.Errorf("measuring the %s: %w", name, err)
		}
		in.digests[name] = sum
	}
	return in, nil
}

// measureProcess gives MRENCLAVE of the simulated enclave of a process TEE.
func measureProcess(spec *launch.Spec, in *inputs, r *Result) error {
	m, err := libos.Expected(spec, in.digests["kernel"], in.digests["initrd"])
	if err != nil {
		return err
	}
	content, err := m.Encode()
	if err != nil {
		return err
	}
	mr, err := sgx.LibraryOS(content)
	if err != nil {
		return err
	}
	for _, row := range []struct{ field, digest, of string }{
		{"libos.runtime", m.Runtime, "the program that is the library OS"},
		{"libos.agent", m.Agent, "the first program inside"},
		{"libos.config", m.Config, "its arguments and environment, memory, CPUs"},
	} {
		r.Rows = append(r.Rows, Row{row.field, row.digest, row.of})
	}
	r.row("mr_enclave", mr[:], fmt.Sprintf("library OS, its flags, agent, its arguments and environment, memory (%d MiB), CPUs (%d)", spec.MemoryMiB, spec.VCPUs))
	r.accept("sgx_mr_enclave", hex.EncodeToString(mr[:]))
	flags := binary.LittleEndian.AppendUint64(nil, quote.FlagInit|quote.FlagMode64|quote.FlagKSS)
	r.row("attributes.flags", flags, "started, 64 bits, with CONFIGID; not debugged")
	r.accept("sgx_attributes_flags", hex.EncodeToString(flags))
	r.Notes = append(r.Notes, "kernel is the library OS, initrd the agent, the command line what both are told (api/libos/SPEC.md)")
	return nil
}
