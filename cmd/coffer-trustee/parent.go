package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// followParent has the kernel send SIGTERM when the parent ends. The check after
// it covers a parent that ended before.
func followParent() error {
	parent := os.Getppid()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("following the parent: %w", err)
	}
	if os.Getppid() != parent {
		return errors.New("following the parent: it has ended already")
	}
	return nil
}
