package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/container"
)

// Dispatch runs the process that argv[0] names and gives its exit code.
func Dispatch(argv []string, opt Options) int {
	if len(argv) == 0 {
		return 2
	}
	switch name := filepath.Base(argv[0]); name {
	case container.InitName, container.ExecName:
		return container.Main(name)
	case keyholderName:
		return helper(name, opt.keyholderMain)(argv[1:])
	case restName:
		return helper(name, restMain)(argv[1:])
	default:
		if run, ok := opt.Roles[name]; ok {
			return run(argv[1:])
		}
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "coffer-guest: it is the first process of a guest, or one of the guest's own; see --help of coffer")
		return 2
	}
	if opt.Images == nil {
		opt.Images = func(context.Context, *Guest) (agent.Images, error) { return noImages{}, nil }
	}
	Main(opt)
	return 1
}

type noImages struct{}

func (noImages) Prepare(context.Context, *podpolicy.Container) (*agent.Image, error) {
	return nil, errors.New("this guest cannot pull images")
}
