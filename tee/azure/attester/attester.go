// Package attester gets evidence from an Azure confidential VM: the paravisor's
// report with the session's data in it, a quote of the vTPM, the chip's
// certificate or the TD's quote from the metadata service (tee/azure/SPEC.md;
// shared facts: guest-components 1.5, az-snp-vtpm and az-tdx-vtpm).
//
// Invariants: which TEE it is, the report in the vTPM says, and nothing falls
// back; evidence is version 2 or there is none; keys never leave the vTPM; what
// the metadata service says is bounded and believed by nobody before it is
// verified. This package opens no connection: the caller hands in both devices.
//
// Trust zone: guest.
package attester

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// Options configures New.
type Options struct {
	// Metadata does the requests to the metadata service.
	Metadata Metadata
	// Simulation is the note of simulated hardware; "" on real machines.
	Simulation string
	// Poll is how often the report is read while the paravisor takes in the
	// session's data, and Wait how long at most; 250 ms and 20 s if zero. The
	// published attester waits 3 s.
	Poll, Wait time.Duration
}

// Attester holds the vTPM's connection. It is safe for concurrent use.
type Attester struct {
	device.Events

	mu   sync.Mutex
	t    transport.TPMCloser
	o    Options
	tee  string
	ak   *tpm2.NamedHandle
	vcek *certificates // the last fetched
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Recorder = (*Attester)(nil)
)

// Detect tells from the vTPM which TEE this is; attest.ErrNotPresent where its
// memory has no such report.
func Detect(t transport.TPM) (tee string, err error) {
	h, err := readReport(t)
	if err != nil {
		return "", err
	}
	return h.TEE, nil
}

// New takes over the connection to the vTPM; Close closes it. The error wraps
// attest.ErrNotPresent where this is no Azure confidential VM.
func New(t transport.TPMCloser, o Options) (*Attester, error) {
	if o.Metadata == nil {
		return nil, errors.New("azure attester: no metadata service")
	}
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	if o.Wait <= 0 {
		o.Wait = 20 * time.Second
	}
	a := &Attester{t: t, o: o}
	a.Events = device.NewEvents(&a.mu, t)
	h, err := readReport(t)
	if err != nil {
		return nil, err
	}
	a.tee = h.TEE
	return a, a.findAK(h)
}

// readReport reads and takes apart the paravisor's report.
func readReport(t transport.TPM) (*azure.HCL, error) {
	b, err := device.ReadNV(t, azure.NVReport, true, azure.MaxReport)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, fmt.Errorf("the TPM has no HCL report: %w", attest.ErrNotPresent)
	}
	if err != nil {
		return nil, fmt.Errorf("reading HCL report: %w", err)
	}
	return azure.ParseHCL(b)
}

// findAK reads the attestation key's name and compares the key with the
// report's: another one would only show as a refusal of the trustee.
func (a *Attester) findAK(h *azure.HCL) error {
	rc, err := azure.ParseRuntimeClaims(h.RuntimeClaims)
	if err != nil {
		return err
	}
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(azure.AKHandle)}.Execute(a.t)
	if err != nil {
		return fmt.Errorf("reading attestation key: %w", err)
	}
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("reading attestation key: %w", err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return fmt.Errorf("reading attestation key: %w", err)
	}
	if k, ok := key.(*rsa.PublicKey); !ok || !k.Equal(rc.AK) {
		return errors.New("the vTPM's attestation key is not the one in the HCL report")
	}
	a.ak = &tpm2.NamedHandle{Handle: azure.AKHandle, Name: rsp.Name}
	return nil
}

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return a.tee }

// RequestExtra implements attest.Attester. Not every vTPM quotes 64 bytes of
// qualifying data, so SHA-512 is not offered.
func (a *Attester) RequestExtra() *kbs.RequestExtra {
	return &kbs.RequestExtra{SupportedHashAlgorithms: []string{kbs.HashSHA256, kbs.HashSHA384}}
}

// Evidence implements attest.Attester. The report data is quoted as it is, and
// padded with zeros in the runtime claims.
func (a *Attester) Evidence(ctx context.Context, reportData []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	if len(reportData) == 0 || len(reportData) > azure.UserDataSize {
		return nil, fmt.Errorf("azure evidence: %d bytes of report data, at most %d", len(reportData), azure.UserDataSize)
	}
	var e *azure.Evidence
	entries, err := aael.Around(a.Entries(), func() (err error) {
		e, err = a.collect(ctx, reportData)
		return err
	})
	if err != nil {
		return nil, err
	}
	e.Entries = entries
	return e.Encode()
}

func (a *Attester) collect(ctx context.Context, reportData []byte) (*azure.Evidence, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	raw, h, err := a.boundReport(ctx, initdata.Fit(reportData, azure.UserDataSize))
	if err != nil {
		return nil, err
	}
	q, err := device.NewQuote(a.t, a.ak, reportData)
	if err != nil {
		return nil, err
	}
	sig, err := q.Signature.Signature.RSASSA()
	if err != nil || sig.Hash != tpm2.TPMAlgSHA256 {
		return nil, errors.New("azure evidence: the vTPM's signature is not RSASSA with SHA-256")
	}
	e := &azure.Evidence{
		TEE: a.tee, Version: 2, HCLReport: raw, Simulation: a.o.Simulation,
		Quote: azure.Quote{Signature: sig.Sig.Buffer, Message: q.Message, PCRs: q.PCRs[:]},
	}
	if a.tee == azure.TDX {
		e.TDQuote, err = fetchQuote(ctx, a.o.Metadata, h.Hardware)
	} else if err = a.fetchCertificates(ctx, h.Hardware); err == nil {
		e.VCEK = a.vcek.vcek
		if e.Simulation != "" {
			e.ASK = a.vcek.ask
		}
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// boundReport has the paravisor make a report over user data and waits for it.
func (a *Attester) boundReport(ctx context.Context, userData []byte) ([]byte, *azure.HCL, error) {
	if err := device.WriteNV(a.t, azure.NVUserData, userData); err != nil {
		return nil, nil, err
	}
	for start := time.Now(); ; {
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("waiting for the HCL report: %w", context.Cause(ctx))
		}
		b, err := device.ReadNV(a.t, azure.NVReport, true, azure.MaxReport)
		if err != nil {
			return nil, nil, fmt.Errorf("reading HCL report: %w", err)
		}
		// While it is being written it may not parse.
		h, err := azure.ParseHCL(b)
		var rc *azure.RuntimeClaims
		if err == nil {
			rc, err = azure.ParseRuntimeClaims(h.RuntimeClaims)
		}
		if err == nil && bytes.Equal(rc.UserData, userData) {
			if h.TEE != a.tee {
				return nil, nil, fmt.Errorf("the HCL report is now of %s, it was of %s", h.TEE, a.tee)
			}
			return b, h, nil
		}
		if time.Since(start) > a.o.Wait {
			return nil, nil, errors.Join(fmt.Errorf("the paravisor took no user data in %v", a.o.Wait), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.o.Poll):
		}
	}
}

// Close implements attest.Attester.
func (a *Attester) Close() error { return a.t.Close() }
