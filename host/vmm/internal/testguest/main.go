// Command testguest is PID 1 of the VMs that the tests of host/vmm boot: it
// prints a line, serves the guest channel, and ends as it is told.
//
// On a stream of kind "t" it echoes; of kind "s" it gives the report of simulated
// hardware over 64 letters, from a port opened for it; of kind "p" it powers off; of kind "x" it
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
	"github.com/cofferproject/coffer/api/simhw"
)

func main() {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			fmt.Println("testguest: mount:", err)
		}
	}
	fmt.Println("TESTGUEST started")
	devices()
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

// devices shows what the machine has on its bus.
func devices() {
	ents, _ := os.ReadDir("/sys/bus/pci/devices")
	for _, e := range ents {
		d, _ := os.ReadFile("/sys/bus/pci/devices/" + e.Name() + "/device")
		rom := "no ROM"
		if _, err := os.Stat("/sys/bus/pci/devices/" + e.Name() + "/rom"); err == nil {
			rom = "a ROM"
		}
		fmt.Printf("TESTGUEST device %s %s, %s\n", e.Name(), bytes.TrimSpace(d), rom)
	}
}

// report asks simulated hardware, as a guest does.
func report(ctx context.Context) ([]byte, error) {
	p, err := virtioport.Open(ctx, simhw.PortName)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	q := &simhw.Request{ID: uint64(time.Now().UnixNano()), Op: simhw.OpReport, Payload: bytes.Repeat([]byte("r"), 64)}
	b, err := q.Encode()
	if err == nil {
		_, err = p.Write(b)
	}
	if err != nil {
		return nil, err
	}
	a, err := simhw.ReadResponse(p, q.ID)
	if err != nil {
		return nil, err
	}
	return a.Payload, nil
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
		case 's':
			go func() {
				b, err := report(ctx)
				if err != nil {
					b = []byte(err.Error())
				}
				_, _ = c.Write(b)
				_ = c.Close()
			}()
		default:
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}
}
