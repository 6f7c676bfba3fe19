package boot

import (
	"fmt"
	"syscall"
)

// maxOpenFiles is how many files a workload may have opened at once if it raises its own
// limit: what systemd gives services, and so containers, elsewhere.
const maxOpenFiles = 524288

// OpenFiles sets the limit that all processes of the guest inherit. By the package
// syscall, which else gives each child the limit that the kernel gave this process.
func OpenFiles() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: maxOpenFiles, Max: maxOpenFiles}); err != nil {
		return fmt.Errorf("setting the limit of open files: %w", err)
	}
	return nil
}
