package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cofferproject/coffer/api/channel/virtioport"
	protocol "github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/teedev"
	"github.com/cofferproject/coffer/tee/attest"
	azure "github.com/cofferproject/coffer/tee/azure/attester"
	cca "github.com/cofferproject/coffer/tee/cca/attester"
	nitro "github.com/cofferproject/coffer/tee/nitro/attester"
	sgx "github.com/cofferproject/coffer/tee/sgx/attester"
	simhw "github.com/cofferproject/coffer/tee/simhw/sim"
	snp "github.com/cofferproject/coffer/tee/snp/attester"
	tdx "github.com/cofferproject/coffer/tee/tdx/attester"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
)

// openAttester opens the simulated hardware that the machine has: a software TPM,
// or else what coffer-simhw plays. The release attesters work on both.
func openAttester(log *slog.Logger) (attest.Attester, error) {
	if _, ok := boot.FindTPM(); ok {
		t, err := device.Open()
		if err != nil {
			return nil, err
		}
		return sim.New(t, attester.Options{Logger: log})
	}
	a, d, err := openPlayed()
	if err != nil {
		return nil, err
	}
	return own(a, d), nil
}

// own gives the attester with its device, behind which others are from now on.
func own(a attest.Attester, d *simhw.Device) attest.Attester {
	hardware.Lock()
	hardware.device = d
	hardware.Unlock()
	if r, ok := a.(attest.Recorder); ok {
		return recorder{owner{a, d}, r}
	}
	return owner{a, d}
}

// openPlayed opens what coffer-simhw plays; who closes the device closes both.
func openPlayed() (attest.Attester, *simhw.Device, error) {
	d, err := openHardware(context.Background())
	if err != nil {
		return nil, nil, err
	}
	a, err := played(d)
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return a, d, nil
}

// owner closes the device with its attester.
type owner struct {
	attest.Attester
	device *simhw.Device
}

// Close implements attest.Attester.
func (o owner) Close() error {
	hardware.Lock()
	hardware.device = nil
	hardware.Unlock()
	return o.device.Close()
}

// recorder is an owner whose attester records run-time events.
type recorder struct {
	owner
	attest.Recorder
}

// played gives the attester of the TEE that coffer-simhw says it plays.
func played(d *simhw.Device) (attest.Attester, error) {
	switch d.TEE() {
	case "snp":
		return snp.New(d, snp.Options{Simulation: d.Note()})
	case "tdx":
		return tdx.New(tdx.Options{
			Reporter: d, Registers: registers{d}, Simulation: d.Note(),
			Firmware: func() ([]byte, error) { return d.EventLog(context.Background()) },
		})
	case "cca":
		return cca.New(d, cca.Options{Simulation: d.Note()})
	case "az-snp-vtpm":
		return azure.New(d, azure.Options{Metadata: metadata{d}, Simulation: d.Note()})
	case "sgx":
		return sgx.New(enclave{d}, d.Note()), nil
	case "nitro":
		return nitro.New(context.Background(), d, d.Note())
	}
	return nil, fmt.Errorf("simulated hardware: there is no attester for %.40q", d.TEE())
}

// registers gives a simulated TD's registers the names of the kernel's.
type registers struct{ d *simhw.Device }

func (r registers) ConfigID(ctx context.Context) ([]byte, error) { return r.d.InitdataRegister(ctx) }

func (r registers) RTMR(ctx context.Context, register int) ([]byte, error) {
	return r.d.Read(ctx, register)
}

func (r registers) ExtendRTMR(ctx context.Context, register int, digest []byte) error {
	return r.d.Extend(ctx, register, digest)
}

// enclave is the simulated enclave as the library OS offers it.
type enclave struct{ d *simhw.Device }

// Quote implements sgx.LibraryOS.
func (e enclave) Quote(ctx context.Context, reportData []byte) ([]byte, error) {
	q, _, err := e.d.Report(ctx, reportData)
	return q, err
}

// Report implements sgx.LibraryOS.
func (e enclave) Report(ctx context.Context) ([]byte, error) {
	_, r, err := e.d.Report(ctx, make([]byte, reportData))
	return r, err
}

// reportData is how much an enclave has attested of its own, in bytes.
const reportData = 64

// metadata is the simulated metadata service.
type metadata struct{ d *simhw.Device }

// Do implements azure.Metadata.
func (m metadata) Do(ctx context.Context, r *azure.Request) ([]byte, error) {
	b, err := m.d.Call(ctx, protocol.OpMetadata, 0, protocol.JoinBlobs([]byte(r.URL), r.Body))
	if err == nil && int64(len(b)) > r.Limit {
		err = fmt.Errorf("metadata service: %d bytes, at most %d", len(b), r.Limit)
	}
	return b, err
}

// register opens what initdata is bound to.
func register(*slog.Logger) (boot.Register, error) {
	if t, ok := boot.FindTPM(); ok {
		return t, nil
	}
	a, d, err := openPlayed()
	if errors.Is(err, attest.ErrNotPresent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if a.TEE() == "az-snp-vtpm" {
		return &boot.VTPM{Name: a.TEE(), TPM: d, Device: d}, nil
	}
	r, err := teedev.Bound(a)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	switch l := r.(type) {
	case *boot.LaunchBound:
		l.Device = d
	case *boot.Extended:
		l.Device = d
	}
	return r, nil
}

// devices names the simulated hardware's port, if the machine has one.
func devices() ([]string, error) {
	p, err := virtioport.Path(protocol.PortName)
	if errors.Is(err, virtioport.ErrNotFound) {
		return nil, nil
	}
	return []string{p}, err
}
