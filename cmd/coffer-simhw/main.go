// Command coffer-simhw plays TEE hardware for one simulated sandbox. coffer-node
// starts it beside QEMU and tells it by inherited descriptors what to play; it is
// not for people to start.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/nvidia"
)

// models has the hardware of each TEE that can be played.
var models = map[launch.TEE]simhw.Power{
	launch.SNPSim:      powerSNP,
	launch.TDXSim:      powerTDX,
	launch.CCASim:      powerCCA,
	launch.NitroSim:    powerNitro,
	launch.AzureSNPSim: powerAzure,
	launch.SGXSim:      powerSGX,
}

// devices has those that can be played beside them.
var devices = map[string]simhw.Plug{nvidia.WireName: plugNVIDIA}

func main() {
	if len(os.Args) != 1 {
		fmt.Fprintln(os.Stderr, "coffer-simhw: it plays simulated TEE hardware and is started by coffer-node")
		os.Exit(2)
	}
	signal.Ignore(syscall.SIGPIPE)
	if err := simhw.Main(context.Background(), models, devices); err != nil {
		fmt.Fprintln(os.Stderr, "coffer-simhw:", err)
		os.Exit(1)
	}
}
