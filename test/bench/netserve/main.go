// Command netserve answers the network measurement of test/bench. It runs as the
// container of a pod, and as the first process of a plain VM, which it first gives
// QEMU's user network.
//
// A connection begins with a byte: 'd' and 8 bytes, a count that it sends; 'u' and 8
// bytes, a count that it reads and acknowledges with a byte; 'e', then messages of 64
// bytes that it sends back.
//
// Trust zone: tests only.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
)

const message = 64 // bytes

func main() {
	if os.Getpid() == 1 {
		if _, err := os.Stat("/modules/order"); err == nil {
			if err := boot(); err != nil {
				fmt.Println("COFFER-NETSERVE-FAILED", err)
				time.Sleep(time.Minute)
				return
			}
		}
	}
	l, err := net.Listen("tcp", ":5201")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("COFFER-NETSERVE")
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			if err := serve(c); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

func serve(c net.Conn) error {
	var what [9]byte
	if _, err := io.ReadFull(c, what[:1]); err != nil {
		return err
	}
	if what[0] == 'e' {
		b := make([]byte, message)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
	}
	if _, err := io.ReadFull(c, what[1:]); err != nil {
		return err
	}
	left := int64(binary.BigEndian.Uint64(what[1:]))
	buf := make([]byte, 64<<10)
	for left > 0 {
		n := int(min(left, int64(len(buf))))
		var err error
		if what[0] == 'd' {
			n, err = c.Write(buf[:n])
		} else {
			n, err = c.Read(buf[:n])
		}
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	if what[0] == 'u' {
		_, err := c.Write([]byte{1})
		return err
	}
	return nil
}

// boot loads the guest image's modules and configures the first card as QEMU's user
// network expects it.
func boot() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}} {
		_ = os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	c, err := rtnetlink.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	for range 500 {
		links, err := c.Links()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Loopback || len(l.HWAddr) == 0 {
				continue
			}
			if err := c.SetUp(l.Index, true); err != nil {
				return err
			}
			return c.AddAddress(rtnetlink.Address{Index: l.Index, Prefix: netip.MustParsePrefix("10.0.2.15/24")})
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("no network card")
}

func loadModules() error {
	order, err := os.Open("/modules/order")
	if err != nil {
		return err
	}
	defer order.Close()
	lines := bufio.NewScanner(order)
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if name == "" {
			continue
		}
		path := filepath.Join("/", name)
		if !strings.Contains(name, "/") {
			path = filepath.Join("/modules", name)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		flags := 0
		if strings.HasSuffix(name, ".xz") || strings.HasSuffix(name, ".zst") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", name, err)
		}
	}
	return lines.Err()
}
