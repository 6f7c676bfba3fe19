// Command testguest is PID 1 of the VMs that the tests of host/vmm boot: it
// prints a line, serves the guest channel, and ends as it is told.
//
// On a stream of kind "t" it echoes; of kind "p" it powers off; of kind "x" it
// dies, and the kernel with it. The word testguest=silent on the kernel's command
// line makes it answer nobody.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/channel/virtioport"
)

func main() {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			fmt.Println("testguest: mount:", err)
		}
	}
	fmt.Println("TESTGUEST started")
	disk()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	if bytes.Contains(cmdline, []byte("testguest=silent")) {
		fmt.Println("TESTGUEST says nothing\x1b[2J")
		for {
			time.Sleep(time.Hour)
		}
	}
	if _, err := os.Stat("/dev/tpm0"); err == nil {
		fmt.Println("TESTGUEST has a TPM")
	}
	for {
		if err := serve(); err != nil {
			fmt.Println("testguest:", err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// disk shows the beginning of the initdata disk.
func disk() {
	f, err := os.Open("/dev/vda")
	if err != nil {
		return
	}
	defer f.Close()
	b := make([]byte, 8)
	_, _ = io.ReadFull(f, b)
	fmt.Printf("TESTGUEST disk %q\n", b)
}

func serve() error {
	ctx := context.Background()
	p, err := virtioport.Open(ctx, channel.PortName)
	if err != nil {
		return err
	}
	s, err := channel.Guest(ctx, p)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("TESTGUEST connected")
	for {
		k, c, err := s.Accept()
		if err != nil {
			return err
		}
		switch k {
		case 'p':
			_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		case 'x':
			os.Exit(1)
		default:
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}
}
