package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
)

// Reasons of denials about devices beside the CPU. docs/denials.md explains each.
const (
	ReasonDeviceMissing  denial.Reason = "device-missing"
	ReasonDeviceFailed   denial.Reason = "device-evidence-failed"
	ReasonDeviceTooLarge denial.Reason = "device-evidence-too-large"
)

// devices are the devices beside the CPU that initdata asks for. The list is the
// owner's and exact: what is on it and not there, or gives no evidence, makes the
// attestation fail; what is there and not on it is named in the log and is no part
// of the evidence, so that a host cannot choose what a token says.
type devices struct {
	want []string // wire names, sorted
	open map[string]func() (Attester, error)
	log  *slog.Logger

	once   sync.Once // of unasked
	mu     sync.Mutex
	opened map[string]Attester
}

// evidence gives additional_evidence: "" if no device is asked for, else a JSON
// object of wire name and evidence, each bound to reportData. The text is part of
// what the CPU's evidence is bound to, so it must be sent as it is.
func (d *devices) evidence(ctx context.Context, reportData []byte) (string, error) {
	d.once.Do(d.unasked)
	if len(d.want) == 0 {
		return "", nil
	}
	var out strings.Builder
	sep := byte('{')
	for _, tee := range d.want {
		e, err := d.one(ctx, tee, reportData)
		if err != nil {
			return "", err
		}
		out.WriteByte(sep)
		sep = ','
		out.WriteString(strconv.Quote(tee)) // a wire name has nothing that JSON would escape
		out.WriteByte(':')
		out.Write(e)
		if n := out.Len() + len("}"); n > kbs.MaxAdditional {
			return "", &denial.Denial{
				Reason: ReasonDeviceTooLarge, Component: Component, Claim: "evidence of devices", Measured: fmt.Sprintf("%d bytes with that of %s", n, tee),
				Expected: fmt.Sprintf("at most %d", kbs.MaxAdditional), Source: "limit of additional_evidence",
			}
		}
	}
	out.WriteByte('}')
	return out.String(), nil
}

// one gives the evidence of all devices of a kind.
func (d *devices) one(ctx context.Context, tee string, reportData []byte) (json.RawMessage, error) {
	a, err := d.attester(tee)
	if errors.Is(err, attest.ErrNotPresent) {
		return nil, &denial.Denial{
			Reason: ReasonDeviceMissing, Component: Component, Claim: "device " + tee, Measured: "none", Expected: "at least one",
			Source: "additional_devices in initdata", Detail: err.Error(),
		}
	}
	var e json.RawMessage
	if err == nil {
		e, err = a.Evidence(ctx, reportData, nil)
	}
	if errors.Is(err, context.Canceled) {
		return nil, err // this process ends; nothing was found out about the device
	}
	if err == nil && !json.Valid(e) {
		err = errors.New("the evidence is not JSON")
	}
	if err != nil {
		return nil, &denial.Denial{
			Reason: ReasonDeviceFailed, Component: Component, Claim: "device " + tee, Measured: "no evidence", Expected: "evidence for this session",
			Source: "additional_devices in initdata", Detail: clip(err.Error()),
		}
	}
	return e, nil
}

// attester gives the kind's attester, opened once. One that cannot be opened is
// tried again at the next attestation.
func (d *devices) attester(tee string) (Attester, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.opened[tee]; a != nil {
		return a, nil
	}
	open := d.open[tee]
	if open == nil {
		return nil, fmt.Errorf("this guest has no attester for it: %w", attest.ErrNotPresent)
	}
	a, err := open()
	if err != nil {
		return nil, err
	}
	if a.TEE() != tee {
		return nil, errors.Join(fmt.Errorf("its attester is for %.40q", a.TEE()), a.Close())
	}
	if d.opened == nil {
		d.opened = map[string]Attester{}
	}
	d.opened[tee] = a
	return a, nil
}

// unasked names the devices that are there and that nobody asked for.
func (d *devices) unasked() {
	for tee, open := range d.open {
		if slices.Contains(d.want, tee) {
			continue
		}
		a, err := open()
		if errors.Is(err, attest.ErrNotPresent) {
			continue
		}
		d.log.Warn("a device is there that initdata does not ask for; it is not attested", "device", tee)
		if err == nil {
			_ = a.Close()
		}
	}
}

func (d *devices) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.opened {
		_ = a.Close()
	}
	d.opened = nil
}
