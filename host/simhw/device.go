package simhw

import (
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
)

// Device is one device beside the TEE, measured and running.
type Device struct {
	// Evidence gives the device's evidence JSON for a nonce.
	Evidence func(nonce []byte) ([]byte, error)
	Note     string // the simulation note of its evidence
	Root     []byte // DER of the root of its evidence
	// Collateral is what its vendor would publish, as a bundle of tee/collateral.
	Collateral []byte
}

// Plug plays a device of one kind; cmd/coffer-simhw has one for each.
type Plug func(c *Config) (*Device, error)

// plugIn plays the devices that the launch spec names.
func plugIn(c *Config, kinds map[string]Plug) (map[string]*Device, []nodeapi.Simulation, error) {
	devices := map[string]*Device{}
	var out []nodeapi.Simulation
	for _, k := range c.Launch.SimDevices {
		plug := kinds[k]
		if plug == nil || devices[k] != nil {
			return nil, nil, fmt.Errorf("device %.40q: none that is simulated here, or named twice", k)
		}
		d, err := plug(c)
		if err != nil {
			return nil, nil, fmt.Errorf("simulating device %s: %w", k, err)
		}
		devices[k] = d
		out = append(out, nodeapi.Simulation{TEE: k, Note: d.Note, Root: d.Root, RootSPKI: spki(d.Root), Collateral: d.Collateral})
	}
	return devices, out, nil
}

// DeviceNote is the simulation note of a device's evidence.
func DeviceNote(kind string, tee launch.TEE) string {
	return fmt.Sprintf("simulated %s device beside %s, protects nothing: there is no device, its firmware and measurements are made up", kind, tee)
}
