package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/libos"
	"github.com/cofferproject/coffer/host/node"
	"github.com/cofferproject/coffer/host/sandbox"
	"github.com/cofferproject/coffer/host/sevowner"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/vmm"
)

func sandboxMain(args []string) error {
	fs := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	boot := fs.Duration("boot-timeout", vmm.DefaultBootTimeout, "end a guest that has not answered after this long")
	if err := fs.Parse(args); err != nil {
		return err
	}
	parent := os.Getppid()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	simHW := filepath.Join(filepath.Dir(self), "coffer-simhw")
	supervisor := []string{self, "supervise"}
	err = node.Run(ctx, os.Stdin, os.Stdout, func(req *nodeapi.Request) (sandbox.Driver, error) {
		cache, err := vmm.CacheDir()
		if err != nil {
			return nil, err
		}
		if req.Launch.TEE.Process() {
			return libos.New(libos.Options{CacheDir: cache, Supervisor: supervisor, Parent: parent, BootTimeout: *boot, SimHW: simHW})
		}
		p, err := platform.Load(req.Platform)
		if err != nil {
			return nil, err
		}
		return vmm.New(p, vmm.Options{
			CacheDir: cache, Supervisor: supervisor, Parent: parent, BootTimeout: *boot, SimHW: simHW, AskOwner: sevowner.Ask,
		})
	})
	if errors.Is(err, node.ErrFailed) {
		os.Exit(1) // the event has said it
	}
	return err
}

func superviseMain(args []string) error {
	if len(args) != 0 {
		return errors.New("supervise takes no arguments")
	}
	return supervise.Main(io.LimitReader(os.Stdin, 1<<20))
}

func sweepMain(args []string) error {
	fs := flag.NewFlagSet("sweep", flag.ContinueOnError)
	root := fs.String("root", runRoot(), "the directory of the run directories")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 0 {
		return errors.New("sweep takes no arguments, only --root")
	}
	removed, err := supervise.Sweep(*root)
	for _, n := range removed {
		fmt.Println("removed", filepath.Join(*root, n))
	}
	return err
}

// runRoot is where coffer run keeps its run directories.
func runRoot() string {
	if d := os.Getenv("COFFER_RUN_DIR"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/run/coffer"
	}
	return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "coffer")
}
