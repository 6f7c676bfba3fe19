package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/nvidia"
	nvidiaattester "github.com/cofferproject/coffer/tee/nvidia/attester"
	simhw "github.com/cofferproject/coffer/tee/simhw/sim"
)

// hardware is what the TEE's attester has opened: its port can be
// opened once, and devices beside the TEE are behind it too.
var hardware struct {
	sync.Mutex
	device *simhw.Device
}

// beside gives the hardware if it plays a kind of device.
func beside(kind string) (*simhw.Device, error) {
	hardware.Lock()
	defer hardware.Unlock()
	if hardware.device == nil || !slices.Contains(hardware.device.Devices(), kind) {
		return nil, fmt.Errorf("simulated device %s: %w", kind, attest.ErrNotPresent)
	}
	return hardware.device, nil
}

// openDevices opens the simulated devices; the release attesters work on them.
var openDevices = map[string]func() (keyholder.Attester, error){
	nvidia.WireName: func() (keyholder.Attester, error) {
		d, err := beside(nvidia.WireName)
		if err != nil {
			return nil, err
		}
		a, err := nvidiaattester.New(func() (int, error) { return 1, nil }, gpu{d})
		if err != nil {
			return nil, err
		}
		return a, nil
	},
}

// gpu stands in for the helper that asks NVIDIA's devices.
type gpu struct{ d *simhw.Device }

// Collect implements the attester's Collector.
func (g gpu) Collect(ctx context.Context, nonce [nvidia.NonceSize]byte) ([]byte, error) {
	return g.d.DeviceEvidence(ctx, nvidia.WireName, nonce[:])
}
