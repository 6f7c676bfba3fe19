package main

import (
	"time"

	host "github.com/cofferproject/coffer/host/simhw"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/sim"
)

// plugNVIDIA plays this machine's one GPU.
func plugNVIDIA(c *host.Config) (*host.Device, error) {
	state, err := host.Keep(c.CADir, "nvidia.json", func() ([]byte, error) {
		g, err := sim.New(time.Now())
		if err != nil {
			return nil, err
		}
		return g.Encode()
	})
	if err != nil {
		return nil, err
	}
	g, err := sim.Load(state)
	if err != nil {
		return nil, err
	}
	items, err := g.Collateral(time.Now())
	if err != nil {
		return nil, err
	}
	bundle, err := collateral.NewSet(items...).Encode()
	if err != nil {
		return nil, err
	}
	note := host.DeviceNote(nvidia.WireName, c.Launch.TEE)
	return &host.Device{
		Note: note, Root: g.Root().Raw, Collateral: bundle,
		Evidence: func(nonce []byte) ([]byte, error) { return g.Evidence(nonce, note) },
	}, nil
}
