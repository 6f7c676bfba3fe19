package azure

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Evidence is the primary evidence of either TEE, whatever its version.
type Evidence struct {
	TEE string // SNP or TDX
	// Version is 0 (arrays of numbers, no version member), 1 or 2. In version 2
	// the runtime claims carry the report data.
	Version   int
	Quote     Quote
	HCLReport []byte
	// VCEK is the chip's certificate, DER; TEE SNP only.
	VCEK []byte
	// TDQuote is the quote over the HCL report's TDREPORT; TEE TDX only.
	TDQuote []byte
	// Simulation says what is not real (addition, versions 1 and 2).
	Simulation string
	// Entries are the attestation agent's entries for PCR 15, without a header
	// (addition, versions 1 and 2; tee/aael/SPEC.md).
	Entries []byte
	// ASK is the certificate between a simulated machine's VCEK and its root, DER
	// (addition, with Simulation and TEE SNP only: AMD's are known).
	ASK []byte

	pem string // of version 0, as received
}

// Quote is the vTPM's signed quote with the registers it is over.
type Quote struct {
	Signature []byte // RSASSA with SHA-256, bare
	Message   []byte // TPMS_ATTEST
	PCRs      [][32]byte
}

type quoteHex struct {
	Signature hexBytes   `json:"signature"`
	Message   hexBytes   `json:"message"`
	PCRs      []hexBytes `json:"pcrs"`
}

type quoteInts struct {
	Signature ints   `json:"signature"`
	Message   ints   `json:"message"`
	PCRs      []ints `json:"pcrs"`
}

// The published forms, for writing. Reading is stricter than encoding/json: names
// are exact, and no member is unknown.
type versioned struct {
	Version    int      `json:"version"`
	Quote      quoteHex `json:"tpm_quote"`
	HCLReport  b64url   `json:"hcl_report"`
	VCEK       *b64url  `json:"vcek,omitempty"`
	TDQuote    *b64url  `json:"td_quote,omitempty"`
	Simulation string   `json:"simulation,omitempty"`
	ASK        b64url   `json:"ask,omitempty"`
	Entries    b64url   `json:"aael,omitempty"`
}

type snp0 struct {
	Quote  quoteInts `json:"quote"`
	Report ints      `json:"report"`
	VCEK   string    `json:"vcek"`
}

type tdx0 struct {
	Quote     quoteInts `json:"tpm_quote"`
	HCLReport ints      `json:"hcl_report"`
	TDQuote   ints      `json:"td_quote"`
}

// Parse decodes the evidence of one TEE (SNP or TDX). An unknown member is an
// error: it might change the meaning of the rest.
func Parse(tee string, b []byte) (*Evidence, error) {
	if len(b) > MaxEvidence {
		return nil, fmt.Errorf("azure evidence: %d bytes, at most %d", len(b), MaxEvidence)
	}
	e, err := parse(tee, b)
	if err == nil {
		err = e.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("azure evidence: %w", err)
	}
	return e, nil
}

func parse(tee string, b []byte) (*Evidence, error) {
	if tee != SNP && tee != TDX {
		return nil, fmt.Errorf("TEE %.40q is neither %s nor %s", tee, SNP, TDX)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	e := &Evidence{TEE: tee}
	if _, ok := m["version"]; ok {
		return e, e.parseVersioned(m)
	}
	return e, e.parse0(m)
}

func (e *Evidence) parseVersioned(m map[string]json.RawMessage) error {
	device, to := "vcek", &e.VCEK
	if e.TEE == TDX {
		device, to = "td_quote", &e.TDQuote
	}
	err := members(m, []member{
		{"version", false, &e.Version}, {"tpm_quote", false, &quoteMember[hexBytes]{e}}, {"hcl_report", false, (*b64url)(&e.HCLReport)},
		{device, false, (*b64url)(to)}, {"simulation", true, &e.Simulation}, {"ask", true, (*b64url)(&e.ASK)},
		{"aael", true, (*b64url)(&e.Entries)},
	})
	if err == nil && e.Version != 1 && e.Version != 2 {
		err = fmt.Errorf("version %d is not known", e.Version)
	}
	return err
}

func (e *Evidence) parse0(m map[string]json.RawMessage) error {
	if e.TEE == TDX {
		return members(m, []member{
			{"tpm_quote", false, &quoteMember[ints]{e}}, {"hcl_report", false, (*ints)(&e.HCLReport)}, {"td_quote", false, (*ints)(&e.TDQuote)},
		})
	}
	if err := members(m, []member{{"quote", false, &quoteMember[ints]{e}}, {"report", false, (*ints)(&e.HCLReport)}, {"vcek", false, &e.pem}}); err != nil {
		return err
	}
	block, rest := pem.Decode([]byte(e.pem))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("vcek: not one certificate in PEM")
	}
	e.VCEK = block.Bytes
	return nil
}

// member is one of an object's: where its value goes.
type member struct {
	name     string
	optional bool
	to       any
}

// members decodes exactly the members of an object. null is no value of any.
func members(m map[string]json.RawMessage, list []member) error {
	seen := 0
	for _, x := range list {
		raw, ok := m[x.name]
		if !ok {
			if x.optional {
				continue
			}
			return fmt.Errorf("%s: missing", x.name)
		}
		seen++
		if string(raw) == "null" {
			return fmt.Errorf("%s: null", x.name)
		}
		if err := json.Unmarshal(raw, x.to); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	if seen != len(m) {
		return errors.New("a member that is not known")
	}
	return nil
}

// quoteMember decodes a quote whose byte strings are T.
type quoteMember[T ints | hexBytes] struct{ e *Evidence }

// UnmarshalJSON implements json.Unmarshaler.
func (q *quoteMember[T]) UnmarshalJSON(b []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	var sig, msg T
	var pcrs []T
	if err := members(m, []member{{"signature", false, &sig}, {"message", false, &msg}, {"pcrs", false, &pcrs}}); err != nil {
		return err
	}
	return setQuote(q.e, sig, msg, pcrs)
}

func setQuote[T ints | hexBytes](e *Evidence, sig, msg []byte, pcrs []T) error {
	if len(pcrs) != PCRCount {
		return fmt.Errorf("%d PCR values, not %d", len(pcrs), PCRCount)
	}
	e.Quote = Quote{Signature: sig, Message: msg, PCRs: make([][32]byte, PCRCount)}
	for i, p := range pcrs {
		if len(p) != 32 {
			return fmt.Errorf("PCR %d: %d bytes, not 32", i, len(p))
		}
		e.Quote.PCRs[i] = [32]byte(p)
	}
	return nil
}

func (e *Evidence) validate() error {
	for _, f := range []struct {
		name   string
		n, max int
		wanted bool
	}{
		{"signature", len(e.Quote.Signature), maxField, true},
		{"message", len(e.Quote.Message), maxField, true},
		{"HCL report", len(e.HCLReport), MaxReport, true},
		{"vcek", len(e.VCEK), MaxCert, e.TEE == SNP},
		{"td_quote", len(e.TDQuote), MaxQuote, e.TEE == TDX},
	} {
		if f.n > f.max || (f.n > 0) != f.wanted {
			return fmt.Errorf("%s: %d bytes, at most %d", f.name, f.n, f.max)
		}
	}
	switch {
	case e.Version < 0 || e.Version > 2:
		return fmt.Errorf("version %d is not known", e.Version)
	case len(e.Quote.PCRs) != PCRCount:
		return fmt.Errorf("%d PCR values, not %d", len(e.Quote.PCRs), PCRCount)
	case len(e.Simulation) > maxNote || strings.ContainsAny(e.Simulation, "\r\n"):
		return errors.New("simulation note too long or of several lines")
	case len(e.ASK) > MaxCert || len(e.ASK) > 0 && (e.Simulation == "" || e.TEE != SNP):
		return errors.New("ask: too long, or not of a simulated SNP machine")
	case len(e.Entries) > MaxEntries || len(e.Entries) > 0 && e.Version == 0:
		return fmt.Errorf("aael: %d bytes, at most %d, and none in version 0", len(e.Entries), MaxEntries)
	case e.Simulation != "" && e.Version == 0:
		return errors.New("version 0 has no place for a simulation note")
	}
	return nil
}

// Encode gives the published form of e's version.
func (e *Evidence) Encode() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("azure evidence: %w", err)
	}
	if e.Version > 0 {
		v := versioned{Version: e.Version, Quote: quoteHex{Signature: e.Quote.Signature, Message: e.Quote.Message}, HCLReport: e.HCLReport, Simulation: e.Simulation, ASK: e.ASK, Entries: e.Entries}
		for _, p := range e.Quote.PCRs {
			v.Quote.PCRs = append(v.Quote.PCRs, p[:])
		}
		if e.TEE == SNP {
			v.VCEK = (*b64url)(&e.VCEK)
		} else {
			v.TDQuote = (*b64url)(&e.TDQuote)
		}
		return json.Marshal(v)
	}
	q := quoteInts{Signature: e.Quote.Signature, Message: e.Quote.Message}
	for _, p := range e.Quote.PCRs {
		q.PCRs = append(q.PCRs, p[:])
	}
	if e.TEE == TDX {
		return json.Marshal(tdx0{q, e.HCLReport, e.TDQuote})
	}
	cert := e.pem
	if block, _ := pem.Decode([]byte(cert)); block == nil || !bytes.Equal(block.Bytes, e.VCEK) {
		cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.VCEK}))
	}
	return json.Marshal(snp0{q, e.HCLReport, cert})
}
