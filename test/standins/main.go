// Command standins builds images that bear the names and entrypoints of those
// in the Kubernetes documentation's examples, from the machine's own Debian
// packages and small programs of ours, as OCI layouts. test/mirror serves them.
//
//	go run ./test/standins build --out DIR
//
// Every image lands in DIR/<registry>/<repository>/<tag>. What was built from
// the same inputs before is taken from the cache. The same inputs give the same
// bytes. docs/standins.md lists what differs from the real images.
//
// Trust zone: tests only; the programs run on the build machine as root and
// read nothing but packages that apt has authenticated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cofferproject/coffer/owner/platform"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standins:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("standins", flag.ContinueOnError)
	out := f.String("out", "", "folder of the layouts (default: standins in the cache)")
	only := f.String("only", "", "build this image alone, as list names it")
	if len(args) == 0 {
		return errors.New("usage: standins build [--out DIR] [--only IMAGE] | list")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "list":
		for _, s := range standins {
			fmt.Println(s.ref())
		}
		return nil
	case "build":
		cache, err := platform.CacheDir()
		if err != nil {
			return err
		}
		if *out == "" {
			*out = filepath.Join(cache, "standins", "layouts")
		}
		if *only != "" {
			i := slices.IndexFunc(standins, func(s *standin) bool { return s.ref() == *only })
			if i < 0 {
				return fmt.Errorf("no image %q", *only)
			}
			standins = standins[i : i+1]
		}
		b := &builder{ctx: ctx, cache: filepath.Join(cache, "standins")}
		return b.build(*out)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
