package simhw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/libos"
)

// Limits of what is read from QEMU's descriptors.
const (
	maxKernel = 256 << 20
	maxInitrd = 1 << 30
	maxDisk   = 16 + initdata.MaxCompressed
	maxDisks  = 32
)

// Inputs are what hardware would measure.
type Inputs struct {
	// From the running QEMU.
	Kernel, Initrd []byte
	Cmdline        string
	MemoryMiB      int
	VCPUs          int
	Initdata       []byte // the plain document; nil: no device
	// Process is what is measured of a process TEE; nil: a machine.
	Process *libos.Manifest
	// From the launch spec, since emulation cannot run it.
	Firmware []byte
	CPUModel string
}

// QMP asks the running QEMU.
type QMP interface {
	Execute(ctx context.Context, command string, arguments any) (json.RawMessage, error)
}

// Machine is a running QEMU.
type Machine struct {
	QMP QMP
	// Open opens what is behind one of its descriptors, from the start.
	Open func(fd int) (io.ReadCloser, error)
}

// Process gives the Machine of a process that answers on q.
func Process(pid int, q QMP) *Machine {
	return &Machine{QMP: q, Open: func(fd int) (io.ReadCloser, error) {
		return os.Open(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	}}
}

// Read learns the inputs from the running machine.
func (m *Machine) Read(ctx context.Context) (*Inputs, error) {
	in := new(Inputs)
	for _, step := range []struct {
		what string
		read func(context.Context, *Inputs) error
	}{
		{"kernel", m.kernel}, {"initrd", m.initrd}, {"command line", m.cmdline},
		{"memory", m.memory}, {"vCPUs", m.vcpus}, {"initdata", m.initdata},
	} {
		if err := step.read(ctx, in); err != nil {
			return nil, fmt.Errorf("reading the running machine's %s: %w", step.what, err)
		}
	}
	return in, nil
}

// ask executes command and decodes its answer; QEMU adds members in every version.
func (m *Machine) ask(ctx context.Context, out any, command string, args any) error {
	b, err := m.QMP.Execute(ctx, command, args)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decoding the answer to %s: %w", command, err)
	}
	return nil
}

// property gives a property of QEMU's machine object.
func (m *Machine) property(ctx context.Context, name string) (string, error) {
	var v string
	err := m.ask(ctx, &v, "qom-get", map[string]string{"path": "/machine", "property": name})
	return v, err
}

var fdPath = regexp.MustCompile(`^/dev/fd/(\d{1,6})$`)

// file reads the file that a property of the machine names. It must be one of
// QEMU's own descriptors: a path could name another file by now.
func (m *Machine) file(ctx context.Context, property string, limit int64) ([]byte, error) {
	path, err := m.property(ctx, property)
	if err != nil || path == "" {
		return nil, err
	}
	g := fdPath.FindStringSubmatch(path)
	if g == nil {
		return nil, fmt.Errorf("%.100q is no descriptor of QEMU's", path)
	}
	fd, err := strconv.Atoi(g[1])
	if err != nil {
		return nil, err
	}
	return m.read(fd, limit)
}

func (m *Machine) read(fd int, limit int64) ([]byte, error) {
	f, err := m.Open(fd)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return b, nil
}

func (m *Machine) kernel(ctx context.Context, in *Inputs) (err error) {
	if in.Kernel, err = m.file(ctx, "kernel", maxKernel); err == nil && len(in.Kernel) == 0 {
		err = errors.New("the machine has none")
	}
	return err
}

func (m *Machine) initrd(ctx context.Context, in *Inputs) (err error) {
	in.Initrd, err = m.file(ctx, "initrd", maxInitrd)
	return err
}

func (m *Machine) cmdline(ctx context.Context, in *Inputs) (err error) {
	in.Cmdline, err = m.property(ctx, "append")
	return err
}

func (m *Machine) memory(ctx context.Context, in *Inputs) error {
	var v struct {
		Base    uint64 `json:"base-memory"`
		Plugged uint64 `json:"plugged-memory"`
	}
	if err := m.ask(ctx, &v, "query-memory-size-summary", nil); err != nil {
		return err
	}
	if v.Plugged != 0 || v.Base == 0 || v.Base%(1<<20) != 0 || v.Base > 1<<46 {
		return fmt.Errorf("%d bytes and %d bytes plugged in are no size of ours", v.Base, v.Plugged)
	}
	in.MemoryMiB = int(v.Base >> 20)
	return nil
}

func (m *Machine) vcpus(ctx context.Context, in *Inputs) error {
	var v []struct {
		Index int `json:"cpu-index"`
	}
	if err := m.ask(ctx, &v, "query-cpus-fast", nil); err != nil {
		return err
	}
	if in.VCPUs = len(v); in.VCPUs == 0 {
		return errors.New("the machine has none")
	}
	return nil
}

// initdata reads the one disk that holds an initdata document, as the guest will.
func (m *Machine) initdata(ctx context.Context, in *Inputs) error {
	disks, err := m.disks(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, fd := range disks {
		f, err := m.Open(fd)
		if err != nil {
			return err
		}
		plain, err := initdata.DecodeDevice(io.LimitReader(f, maxDisk))
		_ = f.Close()
		switch {
		case errors.Is(err, initdata.ErrNoMagic):
			continue
		case err != nil:
			return err
		case found:
			return errors.New("two disks hold a document")
		}
		if plain == nil {
			plain = []byte{}
		}
		in.Initdata, found = plain, true
	}
	return nil
}

type fdset struct {
	ID  int64 `json:"fdset-id"`
	FDs []struct {
		FD int `json:"fd"`
	} `json:"fds"`
}

// disks gives a descriptor for each medium of the machine's block devices.
func (m *Machine) disks(ctx context.Context) ([]int, error) {
	var blocks []struct {
		QDev     string `json:"qdev"`
		Inserted *struct {
			File string `json:"file"`
		} `json:"inserted"`
	}
	if err := m.ask(ctx, &blocks, "query-block", nil); err != nil {
		return nil, err
	}
	var sets []fdset
	if err := m.ask(ctx, &sets, "query-fdsets", nil); err != nil {
		return nil, err
	}
	var out []int
	for _, b := range blocks {
		if b.Inserted == nil || strings.Contains(b.QDev, "pflash") {
			continue
		}
		set, ok := strings.CutPrefix(b.Inserted.File, "/dev/fdset/")
		if !ok {
			return nil, fmt.Errorf("disk %.100q is behind no descriptor", b.Inserted.File)
		}
		i := slices.IndexFunc(sets, func(s fdset) bool {
			return strconv.FormatInt(s.ID, 10) == set && len(s.FDs) > 0
		})
		if i < 0 {
			return nil, fmt.Errorf("disk %.100q: QEMU has no such set of descriptors", b.Inserted.File)
		}
		if out = append(out, sets[i].FDs[0].FD); len(out) > maxDisks {
			return nil, fmt.Errorf("more than %d disks", maxDisks)
		}
	}
	return out, nil
}

// fromRunning names what Read takes from QEMU, for the simulation note.
func (in *Inputs) fromRunning() string {
	var b bytes.Buffer
	b.WriteString("kernel, ")
	if in.Initrd != nil {
		b.WriteString("initrd, ")
	}
	fmt.Fprintf(&b, "command line, memory (%d MiB), vCPU count (%d)", in.MemoryMiB, in.VCPUs)
	if in.Initdata != nil {
		b.WriteString(" and initdata")
	} else {
		b.WriteString(" and the absence of initdata")
	}
	return b.String()
}
