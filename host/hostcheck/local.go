package hostcheck

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of Linux (include/uapi/linux/kvm.h, psp-sev.h).
const (
	kvmCheckExtension = 0xae03     // _IO(KVMIO, 3)
	sevIssueCmd       = 0xc0105300 // _IOWR('S', 0, struct sev_issue_cmd)

	snpPlatformStatus     = 9
	snpPlatformStatusSize = 32
)

// This gives the machine that the process runs on, with the QEMU of the path.
func This(qemu, quoteSocket string) *Host {
	return &Host{
		Root: "/", Arch: runtime.GOARCH, QuoteSocket: quoteSocket,
		Extension: checkExtension, SNPStatus: snpStatus, CPU: askCPU,
		QEMU: func(ctx context.Context) (QEMU, error) { return askQEMU(ctx, qemu) },
	}
}

func checkExtension(capability int) (int, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), kvmCheckExtension, uintptr(capability))
	if errno != 0 {
		return 0, fmt.Errorf("asking KVM for capability %d: %w", capability, errno)
	}
	return int(v), nil
}

// sevCommand is struct sev_issue_cmd, which is packed.
type sevCommand [16]byte

func snpStatus() (SNPStatus, error) {
	f, err := os.OpenFile("/dev/sev", os.O_RDWR, 0)
	if err != nil {
		return SNPStatus{}, err
	}
	defer f.Close()
	var (
		cmd  sevCommand
		data [snpPlatformStatusSize]byte
		pin  runtime.Pinner
	)
	pin.Pin(&data) // the kernel gets its address inside cmd
	defer pin.Unpin()
	binary.LittleEndian.PutUint32(cmd[0:], snpPlatformStatus)
	binary.LittleEndian.PutUint64(cmd[4:], uint64(uintptr(unsafe.Pointer(&data))))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), sevIssueCmd, uintptr(unsafe.Pointer(&cmd))); errno != 0 {
		return SNPStatus{}, fmt.Errorf("asking the secure processor: %w (its error %d)", errno, binary.LittleEndian.Uint32(cmd[12:]))
	}
	return parseSNPStatus(data), nil
}

func parseSNPStatus(b [snpPlatformStatusSize]byte) SNPStatus {
	return SNPStatus{Major: b[0], Minor: b[1], State: b[2], RMPInitialised: b[3]&1 != 0}
}

// maxQEMUOutput bounds what is taken of QEMU's words.
const maxQEMUOutput = 256 << 10

// askQEMU asks for names; nothing is started.
func askQEMU(ctx context.Context, path string) (QEMU, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	run := func(args ...string) (string, error) {
		var out limited
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdout, cmd.Env = &out, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("asking QEMU: %w", err)
		}
		return out.String(), nil
	}
	version, err := run("--version")
	if err != nil {
		return QEMU{}, err
	}
	machines, err := run("-machine", "help")
	if err != nil {
		return QEMU{}, err
	}
	objects, err := run("-object", "help")
	if err != nil {
		return QEMU{}, err
	}
	first, _, _ := strings.Cut(version, "\n")
	return QEMU{Version: fmt.Sprintf("%.120s", first), Machines: names(machines), Objects: names(objects)}, nil
}

// names gives the first word of each line; the first line is a heading.
func names(help string) []string {
	var out []string
	_, rest, _ := strings.Cut(help, "\n")
	for line := range strings.SplitSeq(rest, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			out = append(out, f[0])
		}
	}
	return out
}

// limited keeps the first maxQEMUOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if room := maxQEMUOutput - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
