// Package attester gets evidence from the NVIDIA devices of this guest through a
// helper program. NVIDIA's drivers hand reports out only to their own C
// libraries (NVML, NSCQ), and the guest links no C; so the libraries live in a
// program of the guest image that speaks a text protocol: 64 hex digits of nonce
// and an end of line to its standard input, the published evidence JSON from its
// standard output, exit status 0. Coffer ships no such program
// (docs/known-gaps.md).
//
// Invariants: the helper is named by an absolute path and gets no environment;
// its output is bounded and read before it is handed on; every report in it is
// for the nonce that was asked for; a guest without NVIDIA devices, or without
// the helper, has no attester, and nothing takes its place; evidence of fewer
// devices than the kernel sees is none.
//
// Trust zone: guest.
package attester

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
)

// Timeout is how long a helper may take for all devices.
const Timeout = 2 * time.Minute

// HelperPath is where a guest image has the helper.
const HelperPath = "/usr/libexec/coffer/nvidia-evidence"

// Collector asks the devices. It is what the helper stands for.
type Collector interface {
	// Collect gives evidence JSON of all devices for a nonce.
	Collect(ctx context.Context, nonce [nvidia.NonceSize]byte) ([]byte, error)
}

// Bus counts the NVIDIA GPUs and switches that the kernel sees.
type Bus func() (int, error)

// Sysfs counts PCI functions of classes 03 and 0680 in sys, the root of sysfs.
// What cannot be read is an error: a device may hide behind it.
func Sysfs(sys fs.FS) Bus {
	return func() (int, error) {
		vendors, err := fs.Glob(sys, "bus/pci/devices/*/vendor")
		if err != nil {
			return 0, fmt.Errorf("looking for NVIDIA devices: %w", err)
		}
		n := 0
		for _, v := range vendors {
			vendor, err := fs.ReadFile(sys, v)
			if err != nil {
				return 0, fmt.Errorf("looking for NVIDIA devices: %w", err)
			}
			if strings.TrimSpace(string(vendor)) != "0x10de" {
				continue
			}
			class, err := fs.ReadFile(sys, filepath.Dir(v)+"/class")
			if err != nil {
				return 0, fmt.Errorf("looking for NVIDIA devices: %w", err)
			}
			if c := strings.TrimSpace(string(class)); strings.HasPrefix(c, "0x03") || strings.HasPrefix(c, "0x0680") {
				n++
			}
		}
		return n, nil
	}
}

// Attester gets evidence of all devices. It is safe for concurrent use.
type Attester struct {
	bus Bus
	c   Collector
}

var _ attest.Attester = (*Attester)(nil)

// Open is New for this machine and the helper of the guest image. Devices without
// the helper are an error.
func Open() (*Attester, error) {
	a, err := New(Sysfs(os.DirFS("/sys")), Helper{HelperPath})
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(HelperPath); err != nil {
		return nil, fmt.Errorf("nvidia: there are devices, and no helper to ask them: %w", err)
	}
	return a, nil
}

// New takes the devices' bus and collector; attest.ErrNotPresent where the bus has
// no device.
func New(bus Bus, c Collector) (*Attester, error) {
	if bus == nil || c == nil {
		return nil, errors.New("nvidia attester: no bus or no collector")
	}
	n, err := bus()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("nvidia: %w", attest.ErrNotPresent)
	}
	return &Attester{bus, c}, nil
}

// TEE gives the wire name.
func (a *Attester) TEE() string { return nvidia.WireName }

// RequestExtra gives nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Evidence asks for reports over the first 32 bytes of report data.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	nonce := [nvidia.NonceSize]byte(initdata.Fit(reportData, nvidia.NonceSize))
	b, err := a.c.Collect(ctx, nonce)
	if err != nil {
		return nil, fmt.Errorf("collecting NVIDIA evidence: %w", err)
	}
	e, err := nvidia.Parse(b)
	if err != nil {
		return nil, err
	}
	n, err := a.bus()
	if err != nil {
		return nil, err
	}
	if n != len(e.Devices) {
		return nil, fmt.Errorf("nvidia evidence: of %d devices, and the kernel sees %d", len(e.Devices), n)
	}
	// A helper that repeats old reports would be found out by the trustee; here
	// the error says so in plain words.
	for i := range e.Devices {
		report, err := e.Devices[i].ReportBytes()
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: %w", i, err)
		}
		r, err := spdm.Parse(report)
		if err != nil {
			return nil, fmt.Errorf("nvidia evidence: device %d: %w", i, err)
		}
		if r.Nonce != nonce {
			return nil, fmt.Errorf("nvidia evidence: device %d: report for another nonce", i)
		}
	}
	return json.Marshal(e)
}

// Close does nothing.
func (a *Attester) Close() error { return nil }

// Helper is a Collector that starts a program.
type Helper struct {
	// Path is absolute.
	Path string
}

// Collect runs the program once.
func (h Helper) Collect(ctx context.Context, nonce [nvidia.NonceSize]byte) ([]byte, error) {
	if !filepath.IsAbs(h.Path) {
		return nil, fmt.Errorf("helper %q: not an absolute path", h.Path)
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(hex.EncodeToString(nonce[:]) + "\n")
	cmd.WaitDelay = time.Second
	var diagnosis limited
	diagnosis.max = 4 << 10
	cmd.Stderr = &diagnosis
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", h.Path, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("helper %s: %w", h.Path, err)
	}
	b, err := io.ReadAll(io.LimitReader(out, nvidia.MaxEvidence+1))
	if err == nil && len(b) > nvidia.MaxEvidence {
		err = fmt.Errorf("more than %d bytes", nvidia.MaxEvidence)
	}
	if err != nil {
		cancel()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("%w: %q", werr, diagnosis.String())
	}
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", h.Path, err)
	}
	return b, nil
}

// limited keeps the first bytes written to it.
type limited struct {
	bytes.Buffer
	max int
}

func (l *limited) Write(b []byte) (int, error) {
	if room := l.max - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
