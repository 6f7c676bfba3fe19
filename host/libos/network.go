package libos

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/supervise"
)

// network is how the runtime gets its network.
type network struct {
	entry      string   // entry point of coffer-runsc
	file       *os.File // contract.FDLink or FDNetwork
	namespaces uintptr  // CLONE_NEW* flags
	ready      func() error
}

// network prepares the runtime's: the pod's own namespace, or one that leads to this
// machine's sockets.
func (l *launching) network(uid int) (*network, error) {
	if path := l.driver.opt.Network; path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening the pod's network namespace: %w", err)
		}
		return &network{entry: contract.Join, file: l.keep(f), ready: func() error { return nil }}, nil
	}
	ours, runtime, err := socketPair("link")
	if err != nil {
		return nil, err
	}
	l.keep(ours)
	l.keep(runtime)
	if err := unix.SetNonblock(int(ours.Fd()), false); err != nil {
		return nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ready, err := l.startNetwork(ours, uid)
	if err != nil {
		return nil, err
	}
	return &network{contract.Start, runtime, unix.CLONE_NEWNET, ready}, nil
}

// startNetwork starts what carries the sandbox's traffic. ready waits until it does.
func (l *launching) startNetwork(link *os.File, uid int) (ready func() error, err error) {
	args := []string{contract.Net}
	low := false
	for _, p := range l.spec.Publish {
		ip := p.HostIP
		if ip == "" {
			ip = "127.0.0.1"
		}
		low = low || p.HostPort < 1024
		args = append(args, fmt.Sprintf("tcp/%s/%d", net.JoinHostPort(ip, strconv.Itoa(p.HostPort)), p.GuestPort))
	}
	said, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	l.keep(said)
	out, ow, err := supervise.NewOutput()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	cmd, err := supervise.Start(&supervise.Command{
		Path: l.spec.Kernel.Path, Args: args, Files: []*os.File{link}, UID: uid, BindLowPorts: low, Output: ow, Stdout: w,
	})
	_, _ = w.Close(), ow.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	if err := l.started("network", cmd, out); err != nil {
		return nil, err
	}
	return func() error {
		_ = said.SetReadDeadline(time.Now().Add(startTimeout))
		line, err := bufio.NewReaderSize(said, 64).ReadString('\n')
		if err != nil || line != "ready\n" {
			return fmt.Errorf("starting the network: %s %s", console.Printable(out.Text()), l.sandbox.tail())
		}
		return nil
	}, nil
}
