package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/host/snapshot"
)

func snapshotterMain(args []string) error {
	c := snapshot.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now}
	fs := flag.NewFlagSet("snapshotter", flag.ContinueOnError)
	fs.StringVar(&c.Listen, "listen", "/run/coffer/snapshotter.sock", "the socket that containerd's proxy plugin names")
	fs.StringVar(&c.Root, "root", "/var/lib/coffer/snapshotter", "the folder of its state")
	fs.StringVar(&c.Containerd, "containerd", "/run/containerd/containerd.sock", "containerd's own socket: users' names are looked up there, and images without layers mended")
	fs.StringVar(&c.Name, "name", "coffer", "the proxy plugin's name in containerd's configuration")
	fs.BoolVar(&c.KataVolume, "kata-volume", false, "have containers' mounts say KataVirtualVolume (image_guest_pull), for other runtimes that have their guest pull: Coffer's own needs none")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 0 {
		return errors.New("snapshotter takes no arguments, only flags")
	}
	if c.Containerd == "" {
		return errors.New("--containerd is empty")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return snapshot.Serve(ctx, c)
}
