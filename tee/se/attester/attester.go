// Package attester gets IBM Secure Execution evidence from the ultravisor
// (/dev/uv). Unlike others' attestation it answers a challenge of the trustee's,
// which is the session's nonce.
//
// Invariants: it is chosen by the kernel's word alone and falls back to nothing;
// it opens no connection. Secure Execution binds no initdata and has no run-time
// registers: this attester is neither attest.Bound nor attest.Extender.
//
// Trust zone: guest.
package attester

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/se"
)

// GuestFlag is where the kernel says whether it runs under the ultravisor.
const GuestFlag = "/sys/firmware/uv/prot_virt_guest"

// Device is the ultravisor's interface in the guest.
type Device interface {
	// Attest answers a request over user data (64 bytes).
	Attest(ctx context.Context, request, userData []byte) (measurement, additional, cuid []byte, err error)
}

// Attester is the attester of TEE "se".
type Attester struct{ device Device }

var _ attest.Attester = (*Attester)(nil)

// Open makes the attester of this machine; attest.ErrNotPresent if it is no Secure
// Execution guest.
func Open() (*Attester, error) {
	if err := guest(GuestFlag); err != nil {
		return nil, fmt.Errorf("se attester: %w", err)
	}
	d, err := OpenKernel(DevicePath)
	if err != nil {
		return nil, fmt.Errorf("se attester: %w", err)
	}
	return New(d), nil
}

func guest(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return attest.ErrNotPresent
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 8))
	if err != nil {
		return err
	}
	if string(b) != "1\n" && string(b) != "1" {
		return attest.ErrNotPresent
	}
	return nil
}

// New makes an attester of a device.
func New(d Device) *Attester { return &Attester{d} }

// TEE implements attest.Attester.
func (a *Attester) TEE() string { return se.WireName }

// RequestExtra implements attest.Attester: nothing.
func (a *Attester) RequestExtra() *kbs.RequestExtra { return nil }

// Evidence implements attest.Attester. It cannot answer without the challenge:
// callers use Answer.
func (a *Attester) Evidence(context.Context, []byte, *kbs.TPMChallenge) (json.RawMessage, error) {
	return nil, fmt.Errorf("se attester: evidence answers a challenge: %w", attest.ErrUnsupported)
}

// Answer gives evidence for a challenge: the session's nonce, as sent.
func (a *Attester) Answer(ctx context.Context, nonce string, reportData []byte) (json.RawMessage, error) {
	c, err := se.ParseChallenge([]byte(nonce))
	if err != nil {
		return nil, err
	}
	user := initdata.Fit(reportData, se.UserDataSize)
	measurement, additional, cuid, err := a.device.Attest(ctx, c.Request, user)
	if err != nil {
		return nil, fmt.Errorf("se attester: %w", err)
	}
	b, err := json.Marshal(&se.Evidence{
		Measurement: measurement, Additional: additional, UserData: user, CUID: cuid,
		SealedKey: c.SealedKey, SealedNonce: c.SealedNonce, Tags: c.Tags,
	})
	if err != nil {
		return nil, fmt.Errorf("se attester: %w", err)
	}
	if _, err := se.Parse(b); err != nil { // what the ultravisor gave has its lengths
		return nil, fmt.Errorf("se attester: %w", err)
	}
	return b, nil
}

// Close implements attest.Attester.
func (a *Attester) Close() error {
	if c, ok := a.device.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
