// Package attester gets evidence from a TPM 2.0: an attestation key of its own,
// the proof that it lives beside the endorsement key, a quote with the event
// log (design.md section 4, rule TPM).
//
// Invariants: a software TPM is refused unless the caller hands in the
// acceptance that lives in tee/tpm/sim alone; keys never leave the TPM; the
// quote that is handed out covers the values that go with it.
//
// Trust zone: guest.
package attester

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// ErrSoftwareTPM says that the TPM names itself a software TPM.
var ErrSoftwareTPM = errors.New("the TPM is a software TPM, which protects nothing; this guest image takes none")

// errClosed answers who asks for evidence after Close.
var errClosed = errors.New("the connection to the TPM is closed")

// Options configures New.
type Options struct {
	// AcceptSoftware, if set, may accept a software TPM and gives the note that
	// goes into the evidence. Only tee/tpm/sim sets it.
	AcceptSoftware func(Vendor) (note string, ok bool)
	// EventLogPath is device.EventLogPath if empty.
	EventLogPath string
	Logger       *slog.Logger
}

// Attester holds the keys of one TPM. It is safe for concurrent use.
type Attester struct {
	device.Events

	mu     sync.Mutex
	t      transport.TPMCloser
	logger *slog.Logger
	log    []byte // event log
	note   string

	ekKind tpm.EKKind
	ekCert []byte // empty: the TPM has no endorsement certificate
	ek, ak *tpm2.NamedHandle
	akArea []byte
	akSPKI []byte
}

var (
	_ attest.Attester = (*Attester)(nil)
	_ attest.Recorder = (*Attester)(nil)
)

// New takes over the connection and makes the keys. Close closes it.
func New(t transport.TPMCloser, o Options) (*Attester, error) {
	a := &Attester{t: t, logger: o.Logger}
	a.Events = device.NewEvents(&a.mu, t)
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if o.EventLogPath == "" {
		o.EventLogPath = device.EventLogPath
	}
	if err := a.open(o); err != nil {
		a.flush()
		return nil, err
	}
	return a, nil
}

func (a *Attester) open(o Options) error {
	v, err := ReadVendor(a.t)
	if err != nil {
		return err
	}
	if v.Software() {
		ok := false
		if o.AcceptSoftware != nil {
			a.note, ok = o.AcceptSoftware(v)
		}
		if !ok {
			return fmt.Errorf("%w (vendor %s)", ErrSoftwareTPM, v)
		}
	}
	if err := device.FlushTransient(a.t); err != nil {
		return err
	}
	if a.log, err = device.ReadEventLog(o.EventLogPath, tpm.MaxEventLog); err != nil {
		return err
	}
	if err := a.createAK(); err != nil {
		return err
	}
	return a.findEK()
}

// TEE gives the wire name.
func (a *Attester) TEE() string { return tpm.WireName }

// RequestExtra gives what the trustee needs to make its challenge.
func (a *Attester) RequestExtra() *kbs.RequestExtra {
	x := &kbs.RequestExtra{SupportedHashAlgorithms: kbs.SupportedHashes}
	if len(a.ekCert) > 0 {
		x.TPM = &kbs.TPMRequest{EKCert: a.ekCert, AKPublic: a.akArea}
	}
	return x
}

// Evidence quotes report data, and answers the challenge if there is one.
func (a *Attester) Evidence(_ context.Context, reportData []byte, ch *kbs.TPMChallenge) (json.RawMessage, error) {
	e := &tpm.Evidence{AKPublic: a.akSPKI, AKArea: a.akArea, EventLog: a.log, Simulation: a.note}
	var err error
	if ch != nil {
		if e.CredentialMAC, err = a.credentialMAC(reportData, ch); err != nil {
			return nil, err
		}
	}
	e.Entries, err = aael.Around(a.Entries(), func() (err error) {
		e.Quote, err = a.quote(initdata.Fit(reportData, tpm.QualifyingSize))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tpm evidence: %w", err)
	}
	return json.Marshal(e)
}

// credentialMAC proves the challenge's secret over report data.
func (a *Attester) credentialMAC(reportData []byte, ch *kbs.TPMChallenge) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ak == nil {
		return nil, errClosed
	}
	s, err := a.activate(ch)
	if err != nil {
		return nil, err
	}
	defer clear(s)
	h := hmac.New(sha256.New, s)
	h.Write(reportData)
	return h.Sum(nil), nil
}

func (a *Attester) quote(qualifying []byte) (tpm.Quote, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ak == nil {
		return tpm.Quote{}, errClosed
	}
	q, err := device.NewQuote(a.t, a.ak, qualifying)
	if err != nil {
		return tpm.Quote{}, err
	}
	out := tpm.Quote{Signature: tpm2.Marshal(q.Signature), Message: q.Message, PCRs: make([]tpm.PCRHex, tpm.PCRCount)}
	for i, v := range q.PCRs {
		out.PCRs[i] = v
	}
	return out, nil
}

// Close flushes the keys and closes the connection.
func (a *Attester) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush()
	return a.t.Close()
}

func (a *Attester) flush() {
	for _, h := range []*tpm2.NamedHandle{a.ek, a.ak} {
		if h == nil {
			continue
		}
		if _, err := (tpm2.FlushContext{FlushHandle: h.Handle}).Execute(a.t); err != nil {
			a.logger.Warn("flushing TPM key failed", "error", err)
		}
	}
	a.ek, a.ak = nil, nil
}

// createAK makes a restricted signing key as a primary key: the same one in
// every boot of the same TPM, nothing to store.
func (a *Attester) createAK() error {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(akTemplate),
	}.Execute(a.t)
	if err != nil {
		return fmt.Errorf("creating attestation key: %w", err)
	}
	a.ak = &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
	a.akArea = rsp.OutPublic.Bytes()
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("creating attestation key: %w", err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return fmt.Errorf("creating attestation key: %w", err)
	}
	if a.akSPKI, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return fmt.Errorf("creating attestation key: %w", err)
	}
	return nil
}

var akTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	}),
}
