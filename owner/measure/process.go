package measure

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/tee/intel/quote"
	sgx "github.com/cofferproject/coffer/tee/sgx/measure"
)

func init() { calculators[launch.SGXSim] = measureProcess }

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
	r.row("mr_enclave", mr[:], fmt.Sprintf("library OS, its flags, agent, its arguments and environment, memory (%d MiB), CPUs (%d)", spec.MemoryMiB, spec.VCPUs))
	r.accept("sgx_mr_enclave", hex.EncodeToString(mr[:]))
	flags := binary.LittleEndian.AppendUint64(nil, quote.FlagInit|quote.FlagMode64|quote.FlagKSS)
	r.row("attributes.flags", flags, "started, 64 bits, with CONFIGID; not debugged")
	r.accept("sgx_attributes_flags", hex.EncodeToString(flags))
	r.Notes = append(r.Notes, "kernel is the library OS, initrd the agent, the command line what both are told (api/libos/SPEC.md)")
	return nil
}
