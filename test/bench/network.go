package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/owner/guestimage"
)

const (
	netImage = "registry.example/coffer/netserve:latest"
	netPort  = 5201 // test/bench/netserve
	netBytes = 32 << 20
	netAsks  = 2000
)

// netYAML is the pod that serves.
const netYAML = `apiVersion: v1
kind: Pod
metadata:
  name: netserve
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: ` + netImage + `
`

// netFigures are one guest's: MiB a second from and to it, and how long it takes to
// answer a message.
type netFigures struct{ down, up, median, p99 float64 }

// runNetwork measures the same server twice with the same QEMU, devices, kernel and
// user network: in a sealed pod, and as the first process of a plain VM.
func (c *config) runNetwork(ctx context.Context, w io.Writer) error {
	p, err := platform.Load(c.platform)
	if err != nil {
		return err
	}
	program := c.file("netserve")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./test/bench/netserve")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the server: %w\n%s", err, out)
	}
	image := exec.CommandContext(ctx, "go", "run", "./test/programimage", "--program", "netserve", "--package", "./test/bench/netserve", "--name", netImage, "--out", c.file("image"))
	if out, err := image.CombinedOutput(); err != nil {
		return fmt.Errorf("making the server's image: %w\n%s", err, out)
	}
	initrd, err := c.plainInitrd(p, program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.file("net.yaml"), []byte(netYAML), 0o600); err != nil {
		return err
	}
	var plain, pod []netFigures
	for i := range c.runs {
		a, err := c.plainNetwork(p, initrd, i)
		if err != nil {
			return fmt.Errorf("plain VM: %w", err)
		}
		b, err := c.podNetwork()
		if err != nil {
			return fmt.Errorf("coffer run: %w", err)
		}
		plain, pod = append(plain, *a), append(pod, *b)
		fmt.Fprintf(w, "run %d: plain VM %+v, pod %+v\n", i+1, *a, *b)
	}
	fmt.Fprintf(w, "%-34s %10s %10s %10s\n", "medians", "plain VM", "pod", "pod/plain")
	for _, r := range []struct {
		name string
		of   func(netFigures) float64
	}{
		{"from the guest, MiB/s", func(f netFigures) float64 { return f.down }},
		{"to the guest, MiB/s", func(f netFigures) float64 { return f.up }},
		{"64 bytes there and back, median µs", func(f netFigures) float64 { return f.median }},
		{"the same, p99 µs", func(f netFigures) float64 { return f.p99 }},
	} {
		of := func(all []netFigures) float64 {
			var v []float64
			for _, f := range all {
				v = append(v, r.of(f))
			}
			return median(v)
		}
		fmt.Fprintf(w, "%-34s %10.1f %10.1f %10.2f\n", r.name, of(plain), of(pod), of(pod)/of(plain))
	}
	return nil
}

// plainInitrd is the guest image's with another first process: the kernel unpacks one
// archive after the other, and the last file of a name stays.
func (c *config) plainInitrd(p *platform.Platform, program string) (string, error) {
	im, err := p.Image(platform.Sim)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(im.Initrd)
	if err != nil {
		return "", err
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	more, err := guestimage.BareInitrd(init)
	if err != nil {
		return "", err
	}
	b = append(b, make([]byte, (4-len(b)%4)%4)...)
	path := c.file("initrd-netserve.cpio")
	return path, os.WriteFile(path, append(b, more...), 0o644)
}

func (c *config) plainNetwork(p *platform.Platform, initrd string, i int) (*netFigures, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	_, stop, err := c.plainVM(p, fmt.Sprintf("plain-%d", i), initrd, "COFFER-NETSERVE\r\n",
		launch.PortForward{HostPort: port, GuestPort: netPort, Protocol: "tcp"})
	if err != nil {
		return nil, err
	}
	defer stop()
	return measureNetwork(port)
}

func (c *config) podNetwork() (_ *netFigures, err error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := c.command("coffer", "run", "--tee", string(launch.TPMSim), "--platform", c.platform, "--image", netImage+"=oci:"+c.file("image"),
		"--memory", fmt.Sprint(c.memory), "--cpus", fmt.Sprint(c.cpus), "--publish", fmt.Sprintf("127.0.0.1:%d:%d", port, netPort), c.file("net.yaml"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	line := make([]byte, 64)
	n, err := out.Read(line)
	var f *netFigures
	if err == nil {
		if !strings.Contains(string(line[:n]), "COFFER-NETSERVE") {
			err = fmt.Errorf("the server said %q", line[:n])
		} else {
			f, err = measureNetwork(port)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, errs.String())
	}
	return f, nil
}

func measureNetwork(port int) (*netFigures, error) {
	dial := func(what byte, count uint64) (net.Conn, error) {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
		if err != nil {
			return nil, err
		}
		b := []byte{what}
		if what != 'e' {
			b = binary.BigEndian.AppendUint64(b, count)
		}
		err = c.SetDeadline(time.Now().Add(2 * time.Minute))
		if err == nil {
			_, err = c.Write(b)
		}
		if err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	}
	f := new(netFigures)
	for _, what := range []byte{'d', 'u'} {
		c, err := dial(what, netBytes)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if what == 'd' {
			_, err = io.CopyN(io.Discard, c, netBytes)
		} else if _, err = io.CopyN(c, zeros{}, netBytes); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		rate := netBytes / time.Since(began).Seconds() / (1 << 20)
		_ = c.Close()
		if err != nil {
			return nil, err
		}
		if what == 'd' {
			f.down = rate
		} else {
			f.up = rate
		}
	}
	c, err := dial('e', 0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var took []float64
	b := make([]byte, 64)
	for range netAsks {
		began := time.Now()
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Microseconds()))
	}
	slices.Sort(took)
	f.median, f.p99 = median(took), took[len(took)*99/100]
	return f, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return a.Port, nil
}
