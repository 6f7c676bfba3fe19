package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	simhw "github.com/cofferproject/coffer/tee/simhw/sim"
)

// port is the descriptor behind which coffer-simhw is, where the guest's kernel is a
// library OS; nil: the hardware is a device of the machine.
var port *os.File

// openHardware opens what coffer-simhw plays.
func openHardware(ctx context.Context) (*simhw.Device, error) {
	if port == nil {
		return simhw.Open(ctx)
	}
	// A connection of its own: who closes it leaves the port to the next.
	c, err := net.FileConn(port)
	if err != nil {
		return nil, fmt.Errorf("opening simulated hardware: %w", err)
	}
	d, err := simhw.New(ctx, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening simulated hardware: %w", err), c.Close())
	}
	return d, nil
}
