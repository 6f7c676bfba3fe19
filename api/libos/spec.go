package libos

import (
	_ "embed" // floor.txt
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

// Programs of a process TEE, by their names beside Coffer's others.
const (
	RuntimeProgram = "coffer-runsc"
	AgentProgram   = "coffer-guest-sim"
)

//go:embed floor.txt
var releaseFloor string

// ReleaseFloor gives the date that floor.txt had when this program was built, in Unix
// seconds: the floor of the clock of a guest that has no image.
func ReleaseFloor() int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(releaseFloor), 10, 64)
	if err != nil || n <= 0 {
		panic("api/libos/floor.txt holds no Unix time") // it is compiled in
	}
	return n
}

// NewSpec gives the launch of a pod in a process of this release: every launcher and
// who computes what to expect begin with it. runtime and agent are paths.
func NewSpec(tee launch.TEE, runtime, agent string, memoryMiB, vcpus int) *launch.Spec {
	return &launch.Spec{
		TEE: tee, Kernel: launch.File{Path: runtime}, Initrd: launch.File{Path: agent},
		Cmdline: DefaultCmdline(ReleaseFloor()), MemoryMiB: memoryMiB, VCPUs: vcpus,
	}
}
