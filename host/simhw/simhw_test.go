package simhw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/simhw"
)

// qemu is a QEMU of which the test knows everything.
type qemu struct {
	answers map[string]string
	files   map[int][]byte
}

func (q *qemu) Execute(_ context.Context, command string, args any) (json.RawMessage, error) {
	if a, ok := args.(map[string]string); ok {
		command += " " + a["property"]
	}
	s, ok := q.answers[command]
	if !ok {
		return nil, fmt.Errorf("unexpected %s", command)
	}
	return json.RawMessage(s), nil
}

func (q *qemu) machine() *Machine {
	return &Machine{QMP: q, Open: func(fd int) (io.ReadCloser, error) {
		b, ok := q.files[fd]
		if !ok {
			return nil, fmt.Errorf("descriptor %d is not open", fd)
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}}
}

// newQEMU gives one with a kernel, an initrd and one disk.
func newQEMU(disk []byte) *qemu {
	return &qemu{
		answers: map[string]string{
			"qom-get kernel": `"/dev/fd/5"`, "qom-get initrd": `"/dev/fd/6"`, "qom-get append": `"console=ttyS0"`,
			"query-memory-size-summary": `{"base-memory":268435456,"plugged-memory":0}`,
			"query-cpus-fast":           `[{"cpu-index":0,"qom-path":"/x"},{"cpu-index":1}]`,
			"query-block":               `[{"device":"","qdev":"/machine/peripheral-anon/device[4]/virtio-backend","inserted":{"file":"/dev/fdset/3","drv":"file"}}]`,
			"query-fdsets":              `[{"fdset-id":3,"fds":[{"fd":21}]},{"fdset-id":1,"fds":[]}]`,
		},
		files: map[int][]byte{5: []byte("kernel"), 6: []byte("initrd"), 21: disk},
	}
}

func TestRead(t *testing.T) {
	in, err := newQEMU(make([]byte, 512)).machine().Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if string(in.Kernel) != "kernel" || string(in.Initrd) != "initrd" || in.Cmdline != "console=ttyS0" ||
		in.MemoryMiB != 256 || in.VCPUs != 2 || in.Initdata != nil {
		t.Errorf("%+v", in)
	}
	note := Note(launch.SNPSim, &Inputs{VCPUs: 2, MemoryMiB: 256, Firmware: []byte{1}, CPUModel: "EPYC-v4"}, []string{"guest policy"})
	for _, w := range []string{"simulated snp", "256 MiB", "vCPU count (2)", "absence of initdata", "TEE firmware, vCPU model EPYC-v4, guest policy"} {
		if !strings.Contains(note, w) {
			t.Errorf("note %q does not say %q", note, w)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct{ name, key, answer, want string }{
		{"kernel by path", "qom-get kernel", `"/boot/vmlinuz"`, "kernel"},
		{"no kernel", "qom-get kernel", `""`, "has none"},
		{"closed initrd", "qom-get initrd", `"/dev/fd/99"`, "descriptor 99"},
		{"hot-plugged memory", "query-memory-size-summary", `{"base-memory":268435456,"plugged-memory":1048576}`, "memory"},
		{"no vCPU", "query-cpus-fast", `[]`, "vCPUs"},
		{"disk by path", "query-block", `[{"inserted":{"file":"/tmp/disk"}}]`, "behind no descriptor"},
		{"unknown set", "query-fdsets", `[]`, "no such set"},
		{"no JSON", "query-block", `x`, "decoding"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQEMU(make([]byte, 512))
			q.answers[c.key] = c.answer
			if _, err := q.machine().Read(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want %q", err, c.want)
			}
		})
	}
	bad := append([]byte("initdata"), make([]byte, 504)...) // the magic and no document
	if _, err := newQEMU(bad).machine().Read(context.Background()); err == nil {
		t.Error("a broken initdata disk is taken")
	}
}

type hardware struct{}

func (hardware) Handle(_ context.Context, op simhw.Op, arg byte, p []byte) ([]byte, error) {
	switch op {
	case simhw.OpReport:
		return simhw.JoinBlobs(p, nil), nil
	case simhw.OpReadRegister:
		return nil, fmt.Errorf("register %d: %w", arg, ErrUnsupported)
	}
	return nil, errors.New("broken")
}

func TestServe(t *testing.T) {
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	devices := map[string]*Device{"nvidia": {Evidence: func(nonce []byte) ([]byte, error) { return append([]byte("over "), nonce...), nil }}}
	go func() {
		served <- Serve(context.Background(), theirs, simhw.Hello{TEE: "snp", Note: "n"}, hardware{}, devices)
	}()
	payload := []byte("x")
	ask := func(op simhw.Op) *simhw.Response {
		t.Helper()
		b, err := (&simhw.Request{ID: uint64(op), Op: op, Payload: payload}).Encode()
		if err == nil {
			_, err = ours.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		a, err := simhw.ReadResponse(ours, uint64(op))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if h, err := simhw.ParseHello(ask(simhw.OpHello).Payload); err != nil || h.TEE != "snp" {
		t.Errorf("%+v, %v", h, err)
	}
	if a := ask(simhw.OpReport); a.Status != simhw.Done {
		t.Errorf("%+v", a)
	}
	if a := ask(simhw.OpReadRegister); a.Status != simhw.Unsupported {
		t.Errorf("%+v", a)
	}
	payload = simhw.JoinBlobs([]byte("nvidia"), []byte("nonce"))
	if a := ask(simhw.OpDevice); a.Status != simhw.Done || string(a.Payload) != "over nonce" {
		t.Errorf("%+v", a)
	}
	payload = simhw.JoinBlobs([]byte("toaster"), []byte("nonce"))
	if a := ask(simhw.OpDevice); a.Status != simhw.Unsupported {
		t.Errorf("%+v", a)
	}
	payload = []byte("x")
	if a := ask(simhw.OpDevice); a.Status != simhw.Failed {
		t.Errorf("%+v", a)
	}
	if a := ask(simhw.OpNSM); a.Status != simhw.Failed || string(a.Payload) != "broken" {
		t.Errorf("%+v", a)
	}
	if _, err := ours.Write(make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, simhw.ErrMalformed) {
		t.Errorf("a broken frame: %v", err)
	}
}
