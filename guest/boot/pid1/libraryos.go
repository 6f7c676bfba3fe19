package pid1

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/libos"
)

// hardwareArg tells the key holder that its TEE is behind a descriptor, fdHardware.
const hardwareArg = "hardware"

// prepareLibraryOS makes the surroundings where a library OS is the kernel.
func (opt *Options) prepareLibraryOS() error {
	if err := opt.lib.Filesystems(); err != nil {
		return err
	}
	if err := opt.lib.Cgroups(); err != nil {
		return err
	}
	hw, err := opt.lib.Descriptor(libos.FDHardware, "hardware")
	if err != nil {
		return err
	}
	opt.hardware(hw)
	return nil
}

// hardware tells who opens the TEE behind which descriptor it is.
func (opt *Options) hardware(f *os.File) {
	opt.lib.SetHardware(f)
	if opt.Hardware != nil {
		opt.Hardware(f)
	}
}

// descriptorListen serves the one session that the channel's descriptor can carry.
// When it has ended, so has the launcher.
func (opt *Options) descriptorListen(ctx context.Context) (*channel.Listener, error) {
	f, err := opt.lib.Descriptor(libos.FDChannel, "guest channel")
	if err != nil {
		return nil, err
	}
	return channel.Listen(ctx, channel.KindTTRPC, func(ctx context.Context) (*channel.Session, error) {
		if f == nil {
			return nil, errors.New("the guest channel has ended")
		}
		c := f
		f = nil
		return channel.Guest(ctx, c)
	}), nil
}

// takeHardware is the key holder's: it takes over the descriptor that it was started
// with, if its arguments say so.
func (opt *Options) takeHardware(args []string) error {
	if !slices.Contains(args, hardwareArg) {
		return nil
	}
	if opt.Hardware == nil {
		return errors.New("this guest knows no hardware behind a descriptor")
	}
	if err := unix.SetNonblock(fdHardware, true); err != nil {
		return err
	}
	opt.Hardware(os.NewFile(fdHardware, "hardware"))
	return nil
}
