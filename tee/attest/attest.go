// Package attest is the contract of attesters: what the guest asks of the TEE
// that it runs in. Package tee/<name>/attester implements it for each TEE.
//
// Invariants: an attester is chosen by what the kernel says and never falls back
// to another one or to simulation; it opens no network connection; what it cannot
// do is ErrUnsupported, not silence.
//
// Trust zone: guest.
package attest

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/cofferproject/coffer/api/kbs"
)

// Errors that callers tell apart.
var (
	// ErrUnsupported: this TEE has no such register or no such device.
	ErrUnsupported = errors.New("the TEE does not support this")
	// ErrNotPresent: this machine is not this TEE.
	ErrNotPresent = errors.New("the TEE is not present")
)

// Attester gets evidence from one TEE or device. It is safe for concurrent use.
type Attester interface {
	// TEE is the wire name ("snp", "tdx").
	TEE() string
	// RequestExtra is what the handshake's first message must say; nil: nothing.
	RequestExtra() *kbs.RequestExtra
	// Evidence is the published evidence JSON, bound to reportData: the
	// runtime-data hash, fitted to the TEE's field by the attester. ch answers
	// the challenge's TPM part, if any.
	Evidence(ctx context.Context, reportData []byte, ch *kbs.TPMChallenge) (json.RawMessage, error)
	Close() error
}

// Bound is implemented by attesters of TEEs with a launch-bound initdata
// register (HOST_DATA, MRCONFIGID, RPV, CONFIGID).
type Bound interface {
	// InitdataRegister reads the register; it goes through no untrusted party.
	InitdataRegister(ctx context.Context) ([]byte, error)
}

// Extender is implemented by attesters of TEEs with run-time registers.
type Extender interface {
	// Hash names the registers' algorithm: "sha256", "sha384", "sm3".
	Hash() string
	// Register maps a PCR number to the register that takes its events (RTMR,
	// CCMR); ErrUnsupported for a PCR that has none.
	Register(pcr int) (int, error)
	// Extend extends a register with a digest of Hash.
	Extend(ctx context.Context, register int, digest []byte) error
	// Read gives a register's value.
	Read(ctx context.Context, register int) ([]byte, error)
}

// Recorder is implemented by attesters whose evidence has a place for the
// attestation agent's event log (package tee/aael).
type Recorder interface {
	Extender
	// EventRegister is the one register for the log's events: zero when the guest
	// starts, reset by nothing short of a reset of the machine, extended by
	// nothing but the log. index is the number that the log has for it.
	EventRegister() (register int, index uint32)
	// Record has all later evidence carry the entries and fit them; entries waits
	// for an event that is being recorded (aael.Log.Bytes). It is called once,
	// before the first Evidence.
	Record(entries func() ([]byte, error))
}

// Reporter is a device with the shape of the kernel's configfs-tsm: report data
// in, report out, with an auxiliary blob (SNP: the certificate table). Simulated
// hardware has the same shape, so that attesters know one way only.
type Reporter interface {
	// Provider is the kernel's name of it: "sev_guest", "tdx_guest", "arm_cca_guest".
	Provider() string
	// Report gives the report over inblob (64 bytes).
	Report(ctx context.Context, inblob []byte) (outblob, auxblob []byte, err error)
}
