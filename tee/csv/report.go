package csv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of report fields, in bytes.
const (
	ReportDataSize = 64
	RTMRSize       = 32
	// RTMRs counts the run-time registers; number 0 repeats the launch digest.
	RTMRs      = 5
	signerSize = CertSize + SerialSize + 32 + 32
)

// Where the reports of both versions have what.
const (
	v1Signed, v1Anonce, v1Signature = 180, 188, 192
	v1Signer                        = 336
	v2Signed, v2Signature           = 1024, 1024
	v2Signer                        = 1168
)

// Report is an attestation report. Its fields are unmasked.
type Report struct {
	// Version is 1 or 2 (extended).
	Version int
	// Signed is what the PEK's signature is over, as it is in the report.
	Signed    []byte
	Signature Signature

	UserPubkeyDigest, VMID, VMVersion, ReportData, MNonce, Measure []byte
	Policy                                                         Policy
	SigUsage, SigAlgo                                              uint32

	// Anonce masks the fields of version 1. It is not signed itself.
	Anonce uint32

	// Version 2 only.
	Build                uint32
	RTMRVersion          uint16
	Reserved0, Reserved1 []byte
	RTMR                 [RTMRs][]byte

	// PEK and Serial are the signer's, as the report has them.
	PEK    Cert
	Serial [SerialSize]byte
}

// Policy is the guest policy.
type Policy uint32

func (p Policy) bits(from, n uint) uint32 { return uint32(p) >> from & (1<<n - 1) }

// NoDebug reports that the host may not look into the guest.
func (p Policy) NoDebug() bool { return p.bits(0, 1) == 1 }

// Claims gives the published members.
func (p Policy) Claims() map[string]any {
	out := map[string]any{}
	for _, f := range []struct {
		name    string
		from, n uint
	}{
		{"nodbg", 0, 1}, {"noks", 1, 1}, {"es", 2, 1}, {"nosend", 3, 1}, {"domain", 4, 1}, {"csv", 5, 1}, {"csv3", 6, 1}, {"asid_reuse", 7, 1},
		{"hsk_version", 8, 4}, {"cek_version", 12, 4}, {"api_major", 16, 8}, {"api_minor", 24, 8},
	} {
		out[f.name] = int64(p.bits(f.from, f.n))
	}
	return out
}

// ParseReport reads the report of evidence.
func (e *Evidence) ParseReport() (*Report, error) {
	switch {
	case e.Magic == [magicSize]byte{}, e.Magic == ExtendedMagic && e.Flags == 0:
		return parseV1(e.Report[:])
	case e.Magic == ExtendedMagic && e.Flags == 1:
		return parseV2(e.Report[:])
	}
	return nil, fmt.Errorf("csv report: magic %.16q with flags %d", e.Magic[:], e.Flags)
}

// unmask removes the mask of version 1: the anonce's bytes, over and over.
func unmask(b, anonce []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ anonce[i%len(anonce)]
	}
	return out
}

func (r *Report) body(b []byte) {
	r.UserPubkeyDigest, r.VMID, r.VMVersion = b[:32], b[32:48], b[48:64]
	r.ReportData, r.MNonce, r.Measure = b[64:128], b[128:144], b[144:176]
	r.Policy, r.SigUsage, r.SigAlgo = Policy(u32(b[176:])), u32(b[180:]), u32(b[184:])
}

func (r *Report) signer(b []byte) error {
	r.PEK, r.Serial = Cert(b[:CertSize]), [SerialSize]byte(b[CertSize:CertSize+SerialSize])
	// The guest's library clears the reserved field; the MAC behind it proves
	// nothing to others, since its key is in the report.
	if rest := b[CertSize+SerialSize:]; !zero(rest[:32]) || !zero(b[signerSize:]) {
		return errors.New("csv report: reserved bytes are set")
	}
	return nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func parseV1(b []byte) (*Report, error) {
	anonce := b[v1Anonce : v1Anonce+4]
	r := &Report{
		Version: 1, Signed: b[:v1Signed], Anonce: u32(anonce),
		Signature: Signature{b[v1Signature : v1Signature+coordSize], b[v1Signature+coordSize : v1Signature+2*coordSize]},
	}
	r.body(unmask(b[:v1Anonce], anonce))
	return r, r.signer(b[v1Signer:])
}

func parseV2(b []byte) (*Report, error) {
	r := &Report{
		Version: 2, Signed: b[:v2Signed], Signature: Signature{b[v2Signature : v2Signature+coordSize], b[v2Signature+coordSize : v2Signature+2*coordSize]},
		Build: u32(b[188:]), RTMRVersion: binary.LittleEndian.Uint16(b[192:]), Reserved0: b[194:208], Reserved1: b[368:1024],
	}
	r.body(b)
	for i := range r.RTMR {
		r.RTMR[i] = b[208+RTMRSize*i : 208+RTMRSize*(i+1)]
	}
	return r, r.signer(b[v2Signer:])
}
