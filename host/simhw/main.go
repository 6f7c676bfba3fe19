package simhw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/host/filedigest"
	"github.com/cofferproject/coffer/host/supervise"
	"github.com/cofferproject/coffer/host/vmm/qmp"
)

// Descriptors of a coffer-simhw process, after stdin, stdout, stderr.
const (
	FDGuest    = 3 + iota // the guest's port
	FDQMP                 // a monitor of its own
	FDConfig              // Config as JSON
	FDReady               // Ready as JSON, one line, then closed
	FDFirmware            // the TEE's firmware; an empty file where there is none; of a process TEE its initdata
	fdProgram             // the program itself, as host/supervise starts it
)

const (
	maxConfig    = 16 << 20
	maxFirmware  = 64 << 20
	startTimeout = 20 * time.Second
)

// Config is what a launcher tells coffer-simhw.
type Config struct {
	PID    int         `json:"pid"`    // of QEMU
	UID    int         `json:"uid"`    // to run under once the hardware is measured; 0: the launcher is not root
	CADir  string      `json:"ca_dir"` // where this machine's simulated roots are kept
	Launch launch.Spec `json:"launch"` // without initdata: that is read from the machine
}

// Ready is coffer-simhw's first and only word to its launcher.
type Ready struct {
	Error      string              `json:"error,omitempty"`
	Simulation *nodeapi.Simulation `json:"simulation,omitempty"`
}

// Model is a hardware model that has measured its inputs.
type Model struct {
	Hardware
	Provider string            // as the kernel names the device
	Root     []byte            // DER of the root of its evidence
	Digests  map[string]string // what it measured, by the claims' names
	// Platform is what the vendor would publish of the hardware's own firmware.
	Platform map[string]any
	// Collateral is what the vendor would publish of this machine; nil: nothing.
	Collateral []byte
	Notes      []string // what it does not take from the running machine, beyond the common
}

// Power measures the inputs and gives the model of one TEE; cmd/coffer-simhw has one
// for each.
type Power func(c *Config, in *Inputs) (*Model, error)

// Main is a coffer-simhw process. Root's rights open QEMU's descriptors and the
// roots of simulated vendors; they are given up before the guest's first request
// is read, and before the launcher is told that the hardware runs.
func Main(ctx context.Context, models map[launch.TEE]Power, kinds map[string]Plug) error {
	ready := os.NewFile(FDReady, "ready")
	if err := os.NewFile(fdProgram, "program").Close(); err != nil {
		return fmt.Errorf("closing the program: %w", err)
	}
	m, err := powerOn(ctx, models, kinds)
	var r Ready
	if err != nil {
		r.Error = fmt.Sprintf("%.4096s", err)
	} else {
		r.Simulation = m.simulation
	}
	if werr := errors.Join(json.NewEncoder(ready).Encode(r), ready.Close()); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	defer m.conn.Close()
	return Serve(ctx, m.conn, m.hello, m.model, m.devices)
}

// played is all the hardware of one sandbox.
type played struct {
	conn       net.Conn // the guest's port
	hello      simhw.Hello
	model      *Model
	devices    map[string]*Device
	simulation *nodeapi.Simulation
}

func powerOn(ctx context.Context, models map[launch.TEE]Power, kinds map[string]Plug) (*played, error) {
	c, err := readConfig(os.NewFile(FDConfig, "config"))
	if err != nil {
		return nil, err
	}
	power := models[c.Launch.TEE]
	if power == nil {
		return nil, fmt.Errorf("%q is no TEE that is simulated here", c.Launch.TEE)
	}
	in, err := measured(ctx, c)
	if err != nil {
		return nil, err
	}
	m, err := power(c, in)
	if err != nil {
		return nil, fmt.Errorf("measuring: %w", err)
	}
	devices, beside, err := plugIn(c, kinds)
	if err != nil {
		return nil, err
	}
	if err := supervise.Drop(c.UID); err != nil {
		return nil, err
	}
	note := Note(c.Launch.TEE, in, m.Notes)
	f := os.NewFile(FDGuest, "guest")
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("taking over the guest's port: %w", err)
	}
	return &played{
		conn: conn, model: m, devices: devices,
		hello: simhw.Hello{TEE: c.Launch.TEE.Wire(), Provider: m.Provider, Note: note, Devices: c.Launch.SimDevices},
		simulation: &nodeapi.Simulation{
			TEE: string(c.Launch.TEE), Note: note, Root: m.Root, RootSPKI: spki(m.Root), Digests: m.Digests, Platform: m.Platform, Collateral: m.Collateral, Devices: beside,
		},
	}, nil
}

// Note is the simulation note: evidence carries it.
func Note(tee launch.TEE, in *Inputs, more []string) string {
	s := fmt.Sprintf("simulated %s, protects nothing: %s are those of the running QEMU", tee.Wire(), in.fromRunning())
	if in.Process != nil {
		s = fmt.Sprintf("simulated %s, protects nothing: %s are those of the running process", tee.Wire(), in.fromProcess())
	}
	var taken []string
	if len(in.Firmware) > 0 {
		taken = append(taken, "TEE firmware")
	}
	if in.CPUModel != "" {
		taken = append(taken, "vCPU model "+in.CPUModel)
	}
	for i, t := range append(taken, more...) {
		if i == 0 {
			s += "; from the launch spec, not run: "
		} else {
			s += ", "
		}
		s += t
	}
	return s
}

// measured learns from what runs what hardware would have measured.
func measured(ctx context.Context, c *Config) (*Inputs, error) {
	if c.Launch.TEE.Process() {
		if err := os.NewFile(FDQMP, "qmp").Close(); err != nil { // there is no monitor
			return nil, fmt.Errorf("reading the running process: %w", err)
		}
		in, err := readProcess(ctx, c.PID, filedigest.In(c.CADir), os.NewFile(FDFirmware, "initdata"))
		if err != nil {
			return nil, fmt.Errorf("reading the running process: %w", err)
		}
		return in, nil
	}
	in, err := readMachine(ctx, c)
	if err != nil {
		return nil, err
	}
	fw, err := readFile(os.NewFile(FDFirmware, "firmware"), maxFirmware)
	if err != nil {
		return nil, fmt.Errorf("reading the TEE's firmware: %w", err)
	}
	in.Firmware, in.CPUModel = fw, c.Launch.CPUModel
	return in, nil
}

func readMachine(ctx context.Context, c *Config) (*Inputs, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("QEMU did not answer in time"))
	defer cancel()
	f := os.NewFile(FDQMP, "qmp")
	conn, err := net.FileConn(f) // of Go's poller, or closing it would not end a read
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("asking QEMU: %w", err)
	}
	q, err := qmp.New(ctx, conn, func(qmp.Event) {})
	if err != nil {
		return nil, fmt.Errorf("asking QEMU: %w", err)
	}
	defer q.Close() // nothing that happens later is measured at launch
	return Process(c.PID, q).Read(ctx)
}

func readConfig(f *os.File) (*Config, error) {
	b, err := readFile(f, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := new(Config)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if c.PID < 2 || c.CADir == "" {
		return nil, errors.New("reading the configuration: process or folder is missing")
	}
	return c, nil
}

func readFile(f *os.File, limit int64) ([]byte, error) {
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}
