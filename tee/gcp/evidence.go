// Package gcp reads the evidence of Google's confidential VMs in the common form
// of go-tpm-tools (SPEC.md): the host's vTPM beside a report of SEV-SNP or TDX.
//
// Invariants: bounded; no input panics; nothing here decides.
//
// Trust zone: trustee and owner. The guest links none of it.
package gcp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/go-sev-guest/proto/sevsnp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// WireName is the TEE's name on the wire.
const WireName = "gcp"

// Limits.
const (
	MaxEvidence = 2 << 20
	PCRCount    = 24
	maxQuotes   = 4
	maxCerts    = 4
	maxCert     = 16 << 10
	maxField    = 8 << 10
	maxLog      = 1 << 20
	maxNote     = 1 << 10
)

// Attestation is one parsed document.
type Attestation struct {
	AKPub         []byte // TPMT_PUBLIC
	AKCert        []byte // DER
	Intermediates [][]byte
	Quote         Quote // of the SHA-256 bank
	// Exactly one of them is set.
	SNP *SNP
	TDX []byte // quote

	EventLog, CanonicalEventLog []byte
	InstanceInfo                json.RawMessage
	Simulation                  string
}

// Quote is a quote of the SHA-256 bank.
type Quote struct {
	Message, Signature []byte // TPMS_ATTEST, TPMT_SIGNATURE
	PCRs               [PCRCount][32]byte
}

// SNP is an SEV-SNP report with its certificates; empty: it came without.
type SNP struct {
	Report               []byte // 1184 bytes
	VCEK, VLEK, ASK, ARK []byte
}

type document struct {
	AKPub             []byte          `json:"akPub"`
	Quotes            []quoteJSON     `json:"quotes"`
	EventLog          []byte          `json:"eventLog"`
	InstanceInfo      json.RawMessage `json:"instanceInfo"`
	CanonicalEventLog []byte          `json:"canonicalEventLog"`
	AKCert            []byte          `json:"akCert"`
	Intermediates     [][]byte        `json:"intermediateCerts"`
	SNP               json.RawMessage `json:"sevSnpAttestation"`
	TDX               json.RawMessage `json:"tdxAttestation"`
	Simulation        string          `json:"simulation"`
}

type quoteJSON struct {
	Quote  []byte `json:"quote"`
	RawSig []byte `json:"rawSig"`
	PCRs   struct {
		Hash string            `json:"hash"`
		PCRs map[string][]byte `json:"pcrs"`
	} `json:"pcrs"`
}

// Parse decodes evidence.
func Parse(b []byte) (*Attestation, error) {
	a, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("gcp evidence: %w", err)
	}
	return a, nil
}

func parse(b []byte) (*Attestation, error) {
	var v document
	if err := jsonobject.Strict(b, MaxEvidence, &v); err != nil {
		return nil, err
	}
	switch {
	case len(v.AKPub) == 0 || len(v.AKPub) > maxField:
		return nil, errors.New("akPub: missing or too long")
	case len(v.AKCert) == 0 || len(v.AKCert) > maxCert || len(v.Intermediates) > maxCerts:
		return nil, errors.New("akCert or intermediateCerts: missing or too long")
	case len(v.EventLog) > maxLog || len(v.CanonicalEventLog) > maxLog || len(v.InstanceInfo) > maxField:
		return nil, errors.New("eventLog, canonicalEventLog or instanceInfo: too long")
	case len(v.Quotes) > maxQuotes:
		return nil, fmt.Errorf("%d quotes, at most %d", len(v.Quotes), maxQuotes)
	case len(v.Simulation) > maxNote || strings.ContainsAny(v.Simulation, "\r\n"):
		return nil, errors.New("simulation note too long or of several lines")
	case (v.SNP == nil) == (v.TDX == nil):
		return nil, errors.New("not exactly one report of hardware")
	}
	for _, c := range v.Intermediates {
		if len(c) > maxCert {
			return nil, errors.New("intermediateCerts: too long")
		}
	}
	a := &Attestation{
		AKPub: v.AKPub, AKCert: v.AKCert, Intermediates: v.Intermediates, EventLog: v.EventLog, CanonicalEventLog: v.CanonicalEventLog,
		InstanceInfo: v.InstanceInfo, Simulation: v.Simulation,
	}
	if err := a.setQuote(v.Quotes); err != nil {
		return nil, err
	}
	var err error
	if v.SNP != nil {
		a.SNP, err = parseSNP(v.SNP)
	} else {
		a.TDX, err = parseTDX(v.TDX)
	}
	return a, err
}

func (a *Attestation) setQuote(quotes []quoteJSON) error {
	found := false
	for i := range quotes {
		q := &quotes[i]
		if q.PCRs.Hash != "SHA256" {
			continue
		}
		if found {
			return errors.New("two quotes of SHA256")
		}
		found = true
		if len(q.Quote) == 0 || len(q.Quote) > maxField || len(q.RawSig) == 0 || len(q.RawSig) > maxField || len(q.PCRs.PCRs) != PCRCount {
			return errors.New("quote of SHA256: a part is missing or too long")
		}
		a.Quote.Message, a.Quote.Signature = q.Quote, q.RawSig
		for n := range PCRCount {
			v, ok := q.PCRs.PCRs[strconv.Itoa(n)]
			if !ok || len(v) != 32 {
				return fmt.Errorf("quote of SHA256: PCR %d is missing or not 32 bytes", n)
			}
			a.Quote.PCRs[n] = [32]byte(v)
		}
	}
	if !found {
		return errors.New("no quote of SHA256")
	}
	return nil
}

func parseSNP(b []byte) (*SNP, error) {
	var p sevsnp.Attestation
	if err := protojson.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("sevSnpAttestation: %w", err)
	}
	raw, err := reportBytes(p.GetReport())
	if err != nil {
		return nil, fmt.Errorf("sevSnpAttestation: %w", err)
	}
	c := p.GetCertificateChain()
	s := &SNP{Report: raw, VCEK: c.GetVcekCert(), VLEK: c.GetVlekCert(), ASK: c.GetAskCert(), ARK: c.GetArkCert()}
	for _, x := range [][]byte{s.VCEK, s.VLEK, s.ASK, s.ARK} {
		if len(x) > maxCert {
			return nil, errors.New("sevSnpAttestation: certificate too long")
		}
	}
	return s, nil
}

// reportBytes puts a report together again as the hardware signed it (SEV-SNP
// ABI, ATTESTATION_REPORT).
func reportBytes(r *sevsnp.Report) ([]byte, error) {
	if r == nil {
		return nil, errors.New("no report")
	}
	b := make([]byte, 1184)
	le := binary.LittleEndian
	for _, f := range []struct {
		off int
		v   uint32
	}{{0, r.Version}, {4, r.GuestSvn}, {0x30, r.Vmpl}, {0x34, r.SignatureAlgo}, {0x48, r.SignerInfo}} {
		le.PutUint32(b[f.off:], f.v)
	}
	for _, f := range []struct {
		off int
		v   uint64
	}{
		{8, r.Policy}, {0x38, r.CurrentTcb}, {0x40, r.PlatformInfo}, {0x180, r.ReportedTcb}, {0x1e0, r.CommittedTcb}, {0x1f0, r.LaunchTcb},
		{0x1f8, r.LaunchMitVector}, {0x200, r.CurrentMitVector},
	} {
		le.PutUint64(b[f.off:], f.v)
	}
	for _, f := range []struct {
		name      string
		off, size int
		v         []byte
	}{
		{"familyId", 0x10, 16, r.FamilyId}, {"imageId", 0x20, 16, r.ImageId}, {"reportData", 0x50, 64, r.ReportData}, {"measurement", 0x90, 48, r.Measurement},
		{"hostData", 0xc0, 32, r.HostData}, {"idKeyDigest", 0xe0, 48, r.IdKeyDigest}, {"authorKeyDigest", 0x110, 48, r.AuthorKeyDigest},
		{"reportId", 0x140, 32, r.ReportId}, {"reportIdMa", 0x160, 32, r.ReportIdMa}, {"chipId", 0x1a0, 64, r.ChipId}, {"signature", 0x2a0, 512, r.Signature},
	} {
		if len(f.v) != f.size {
			return nil, fmt.Errorf("%s: %d bytes, not %d", f.name, len(f.v), f.size)
		}
		copy(b[f.off:], f.v)
	}
	var versions []byte
	for _, v := range []uint32{r.CurrentBuild, r.CurrentMinor, r.CurrentMajor, 0, r.CommittedBuild, r.CommittedMinor, r.CommittedMajor} {
		if v > 0xff {
			return nil, errors.New("a firmware version is more than a byte")
		}
		versions = append(versions, byte(v))
	}
	copy(b[0x1e8:], versions)
	if e := r.Cpuid1EaxFms; e != 0 {
		b[0x188] = byte(e>>8&0xf + e>>20&0xff)
		b[0x189] = byte(e>>4&0xf | e>>12&0xf0)
		b[0x18a] = byte(e & 0xf)
	}
	return b, nil
}

func parseTDX(b []byte) ([]byte, error) {
	var p tdxpb.QuoteV4
	if err := protojson.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("tdxAttestation: %w", err)
	}
	raw, err := tdxabi.QuoteToAbiBytes(&p)
	if err != nil {
		return nil, fmt.Errorf("tdxAttestation: %w", err)
	}
	return raw, nil
}
