// Command agentdrive asks the agent behind a guest channel how it is: a tool for
// people who work on the guest.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/test/agentdrive"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "agentdrive:", err)
		os.Exit(1)
	}
}

func run(socket string) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := agentdrive.DialChannel(ctx, socket)
	if err != nil {
		return err
	}
	defer a.Close()
	h, err := a.Health.Check(ctx, &agentpb.CheckRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("%6.3f s: health %v\n", time.Since(begin).Seconds(), h.GetStatus())
	d, err := a.GetGuestDetails(ctx, &agentpb.GuestDetailsRequest{MemBlockSize: true})
	if err != nil {
		return err
	}
	fmt.Printf("%6.3f s: details %v\n", time.Since(begin).Seconds(), d)
	_, err = a.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{SandboxId: "x"})
	fmt.Printf("%6.3f s: create sandbox: %v\n", time.Since(begin).Seconds(), err)
	_, err = a.DestroySandbox(ctx, &agentpb.DestroySandboxRequest{})
	return err
}
