package pid1

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/container"
	"github.com/cofferproject/coffer/guest/unpacker"
)

// Dispatch runs the process that argv[0] names and gives its exit code.
func Dispatch(argv []string, opt Options) int {
	if len(argv) == 0 {
		return 2
	}
	switch name := filepath.Base(argv[0]); name {
	case container.InitName, container.ExecName, container.PodInitName:
		return container.Main(name)
	case keyholderName:
		return helper(name, opt.keyholderMain)(argv[1:])
	case restName:
		return helper(name, restMain)(argv[1:])
	case unpacker.ParserName:
		return unpacker.ParserMain(argv[1:])
	case unpacker.WriterName:
		return unpacker.WriterMain(argv[1:])
	default:
		if run, ok := opt.published(name); ok {
			return standalone(name, run, argv[1:])
		}
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "coffer-guest: it is the first process of a guest, or one of the guest's own")
		return 2
	}
	if opt.InLibraryOS && len(argv) > 1 && argv[1] == libos.AgentArg {
		var err error
		if opt.lib, err = boot.ParseLibraryOS(argv[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "coffer-guest:", err)
			return 2
		}
	}
	Main(opt)
	return 1
}
