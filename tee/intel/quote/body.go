package quote

import (
	"encoding/binary"
	"fmt"
)

// Enclave is an SGX report body, 384 bytes: of the quoted enclave, or of the QE.
type Enclave struct {
	CPUSVN       [16]byte
	MiscSelect   [4]byte
	Reserved1    [12]byte
	ISVExtProdID [16]byte
	Flags        [8]byte // ATTRIBUTES.FLAGS
	XFRM         [8]byte // ATTRIBUTES.XFRM
	MREnclave    [32]byte
	Reserved2    [32]byte
	MRSigner     [32]byte
	Reserved3    [32]byte
	ConfigID     [64]byte
	ISVProdID    [2]byte
	ISVSVN       [2]byte
	ConfigSVN    [2]byte
	Reserved4    [42]byte
	ISVFamilyID  [16]byte
	ReportData   [64]byte
}

// Bits of Enclave.Flags.
const (
	FlagInit      uint64 = 1 << 0
	FlagDebug     uint64 = 1 << 1
	FlagMode64    uint64 = 1 << 2
	FlagProvision uint64 = 1 << 4
	FlagKSS       uint64 = 1 << 7 // CONFIGID, family and product ids are in use
)

// Attributes gives FLAGS.
func (e *Enclave) Attributes() uint64 { return binary.LittleEndian.Uint64(e.Flags[:]) }

func (e *Enclave) fields() [][]byte {
	return [][]byte{
		e.CPUSVN[:], e.MiscSelect[:], e.Reserved1[:], e.ISVExtProdID[:], e.Flags[:], e.XFRM[:], e.MREnclave[:], e.Reserved2[:],
		e.MRSigner[:], e.Reserved3[:], e.ConfigID[:], e.ISVProdID[:], e.ISVSVN[:], e.ConfigSVN[:], e.Reserved4[:], e.ISVFamilyID[:], e.ReportData[:],
	}
}

// Bytes gives the 384 bytes.
func (e *Enclave) Bytes() []byte { return join(e.fields()) }

func parseEnclave(b []byte) *Enclave {
	e := new(Enclave)
	split(b, e.fields())
	return e
}

// TD is a TD report body: 584 bytes, with TDX 1.5 another 64.
type TD struct {
	TCBSVN         [16]byte // TEE_TCB_SVN: when the TD was launched
	MRSEAM         [48]byte
	MRSignerSEAM   [48]byte
	SEAMAttributes [8]byte
	TDAttributes   [8]byte
	XFAM           [8]byte
	MRTD           [48]byte
	MRConfigID     [48]byte
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte
	ReportData     [64]byte
	// V15 is what TDX 1.5 adds; nil in a TDX 1.0 body.
	V15 *TD15
}

// TD15 is the tail of a TDX 1.5 body.
type TD15 struct {
	TCBSVN2     [16]byte // TEE_TCB_SVN2: now
	MRServiceTD [48]byte
}

// Bits of TD.TDAttributes.
const (
	TDDebug          uint64 = 1 << 0
	TDSEPTVEDisable  uint64 = 1 << 28
	TDMigratable     uint64 = 1 << 29
	TDProtectionKeys uint64 = 1 << 30
	TDKeyLocker      uint64 = 1 << 31
	TDPerfmon        uint64 = 1 << 63
)

// Attributes gives TD_ATTRIBUTES.
func (t *TD) Attributes() uint64 { return binary.LittleEndian.Uint64(t.TDAttributes[:]) }

func (t *TD) fields() [][]byte {
	f := [][]byte{
		t.TCBSVN[:], t.MRSEAM[:], t.MRSignerSEAM[:], t.SEAMAttributes[:], t.TDAttributes[:], t.XFAM[:], t.MRTD[:], t.MRConfigID[:],
		t.MROwner[:], t.MROwnerConfig[:], t.RTMR[0][:], t.RTMR[1][:], t.RTMR[2][:], t.RTMR[3][:], t.ReportData[:],
	}
	if t.V15 != nil {
		f = append(f, t.V15.TCBSVN2[:], t.V15.MRServiceTD[:])
	}
	return f
}

// Bytes gives the 584 or 648 bytes.
func (t *TD) Bytes() []byte { return join(t.fields()) }

// parseTD takes 584 or 648 bytes.
func parseTD(b []byte) *TD {
	t := new(TD)
	if len(b) == TD15Size {
		t.V15 = new(TD15)
	}
	split(b, t.fields())
	return t
}

func split(b []byte, fields [][]byte) {
	for _, f := range fields {
		b = b[copy(f, b):]
	}
}

func join(fields [][]byte) []byte {
	out := make([]byte, 0, TD15Size)
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}

// ParseEnclave reads a report body from the front of b: of a quote, or of a
// report (EREPORT), which has it first.
func ParseEnclave(b []byte) (*Enclave, error) {
	if len(b) < EnclaveSize {
		return nil, fmt.Errorf("report of %d bytes, at least %d", len(b), EnclaveSize)
	}
	return parseEnclave(b[:EnclaveSize]), nil
}
