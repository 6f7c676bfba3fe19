package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/cofferproject/coffer/trustee/server"
)

const keyServiceHelp = "key service that unwraps the file of the envelope key, such as vault-transit:https://HOST/MOUNT/KEY?token-file=FILE (default: the file is the key; docs/trustee/keys.md)"

// newEnvelopeKey makes a key that replicas share.
func newEnvelopeKey(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee new-envelope-key", flag.ContinueOnError)
	service := f.String("key-service", "", keyServiceHelp)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("new-envelope-key takes one argument, the file to make")
	}
	path := f.Arg(0)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: what it unlocks would be lost", path)
	}
	id, err := server.NewEnvelopeKey(ctx, path, *service)
	if err != nil {
		return err
	}
	fmt.Println(id)
	return nil
}

// wrapEnvelopeKey brings a key to another key service.
func wrapEnvelopeKey(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee wrap-envelope-key", flag.ContinueOnError)
	from := f.String("envelope-key", "", "file of the key")
	service := f.String("key-service", "", keyServiceHelp)
	to := f.String("to-key-service", "", "key service that wraps the new file")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 || *from == "" || *to == "" {
		return errors.New("wrap-envelope-key takes --envelope-key, --to-key-service and one argument, the file to make")
	}
	id, err := server.WrapEnvelopeKey(ctx, *from, *service, f.Arg(0), *to)
	if err != nil {
		return err
	}
	fmt.Println(id)
	return nil
}

// rewrap wraps the data keys of a store under another envelope key.
func rewrap(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee rewrap", flag.ContinueOnError)
	c := storeFlags(f)
	output := f.String("output", "text", "form of the outcome: text or json")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("rewrap takes no arguments, got %q", f.Args())
	case *output != "text" && *output != "json":
		return fmt.Errorf("--output %q: text or json", *output)
	case c.OldEnvelopeKey == "" || c.EnvelopeKey == "":
		return errors.New("rewrap takes --old-envelope-key, the key so far, and --envelope-key, the new one (coffer-trustee new-envelope-key makes it)")
	}
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return err
		}
	}
	r, err := server.Rewrap(ctx, *c, func(done, of int) { fmt.Fprintf(os.Stderr, "coffer-trustee: %d of %d values\n", done, of) })
	if errors.Is(err, server.ErrRunning) {
		return fmt.Errorf("%w: stop the trustee first; with --database it may go on", err)
	}
	if err != nil {
		return err
	}
	if *output == "json" {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	fmt.Printf("%d values are now under key %s; key %s opens backups of before, and nothing of this store\n", r.Values, r.To, r.From)
	return nil
}
