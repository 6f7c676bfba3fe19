package podpolicy

import (
	"cmp"
	"fmt"
)

// DefaultTermination is where containers write their last words.
const DefaultTermination = "/dev/termination-log"

// TerminationPath gives the path of the file for the termination message.
func (c *Container) TerminationPath() string { return cmp.Or(c.Termination, DefaultTermination) }

// CheckTermination checks that the file for the termination message is, by name, neither
// at, above nor below anything else that is put into the container; mounts and devices are
// checked. (Where an image's links lead elsewhere, the others cover it: guest/container.)
func (c *Container) CheckTermination() error {
	if c.Termination == "" {
		return nil
	}
	if !mountable(c.Termination) {
		return fmt.Errorf("%s may not be a file of the guest", clip(c.Termination))
	}
	taken := c.taken()
	for _, d := range c.Devices {
		taken = append(taken, d.Path)
	}
	for _, p := range taken {
		if within(c.Termination, p) || within(p, c.Termination) {
			return fmt.Errorf("%s is where the container has %s", clip(c.Termination), p)
		}
	}
	return nil
}
