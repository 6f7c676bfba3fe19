// Package csvtest makes Hygon CSV evidence under a root key of its own, for tests:
// no machine's, and no verifier takes it but one that a test has told to.
//
// Trust zone: tests.
package csvtest

import (
	"encoding/binary"
	"slices"

	"github.com/cofferproject/coffer/tee/csv"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/internal/sm/smtest"
)

// Ids of the signers, as Hygon's keys have them.
const (
	idHRK = "HYGON-SSD-HRK"
	idHSK = "HYGON-SSD-HSK"
	idCEK = "HYGON-SSD-CEK"
	idPEK = "HYGON-SSD-PEK"
)

// Serial is the chip's serial number.
const Serial = "TESTCHIP0001"

// World is a chip and those who vouch for it.
type World struct {
	hrk, hsk, cek, pek *smtest.Key

	HSK csv.RootCert
	CEK csv.Cert
	PEK csv.Cert
}

// Body is what of a report a test chooses.
type Body struct {
	ReportData [csv.ReportDataSize]byte
	Nonce      [16]byte
	Measure    [32]byte
	Policy     uint32
	SigUsage   uint32
	SigAlgo    uint32
	// Anonce masks version 1.
	Anonce uint32
	// RTMR are the registers of version 2, number 1 first.
	RTMR [csv.RTMRs - 1][csv.RTMRSize]byte
}

// Good is a body with nothing wrong.
func Good() Body {
	return Body{Measure: [32]byte{1, 2, 3}, Policy: 0x5, SigUsage: csv.UsagePEK, SigAlgo: csv.AlgSM2, Anonce: 0x5dc7d726}
}

var le = binary.LittleEndian

// New makes a world.
func New() (*World, error) {
	w := new(World)
	for _, k := range []**smtest.Key{&w.hrk, &w.hsk, &w.cek, &w.pek} {
		var err error
		if *k, err = smtest.NewKey(); err != nil {
			return nil, err
		}
	}
	h := w.HSK[:]
	le.PutUint32(h[0:], 1)
	le.PutUint32(h[36:], csv.UsageHSK)
	putKey(h[64:], w.hsk, idHSK, 212-64)
	if err := sign(h[576:], w.hrk, idHRK, w.HSK.Body()); err != nil {
		return nil, err
	}
	if err := cert(&w.CEK, w.cek, idCEK, csv.UsageCEK, w.hsk, idHSK, csv.UsageHSK); err != nil {
		return nil, err
	}
	return w, cert(&w.PEK, w.pek, idPEK, csv.UsagePEK, w.cek, idCEK, csv.UsageCEK)
}

// Root is what a verifier must be told to believe.
func (w *World) Root() *chain.Root {
	b := w.hrk.Public.Bytes()
	return &chain.Root{X: b[:32], Y: b[32:], ID: []byte(idHRK)}
}

// File is what Hygon's key service would give for the chip.
func (w *World) File() []byte { return append(slices.Clone(w.HSK[:]), w.CEK[:]...) }

func cert(c *csv.Cert, key *smtest.Key, id string, usage uint32, issuer *smtest.Key, issuerID string, issuerUsage uint32) error {
	le.PutUint32(c[0:], 1)
	le.PutUint32(c[8:], usage)
	le.PutUint32(c[12:], csv.AlgSM2)
	putKey(c[16:], key, id, 164-16)
	le.PutUint32(c[1044:], issuerUsage)
	le.PutUint32(c[1048:], csv.AlgSM2)
	le.PutUint32(c[1564:], csv.UsageInvalid)
	return sign(c[1052:], issuer, issuerID, c.Body())
}

// putKey writes curve and point, and the id behind them.
func putKey(b []byte, k *smtest.Key, id string, idAt int) {
	le.PutUint32(b, csv.CurveSM2)
	point := k.Public.Bytes()
	copy(b[4:], reversed(point[:32]))
	copy(b[76:], reversed(point[32:]))
	le.PutUint16(b[idAt:], uint16(len(id)))
	copy(b[idAt+2:], id)
}

func sign(to []byte, k *smtest.Key, id string, message []byte) error {
	r, s, err := k.Sign([]byte(id), message)
	if err != nil {
		return err
	}
	copy(to, reversed(r))
	copy(to[72:], reversed(s))
	return nil
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

func (b *Body) write(to []byte) {
	copy(to[64:], b.ReportData[:])
	copy(to[128:], b.Nonce[:])
	copy(to[144:], b.Measure[:])
	le.PutUint32(to[176:], b.Policy)
	le.PutUint32(to[180:], b.SigUsage)
	le.PutUint32(to[184:], b.SigAlgo)
}

// V1 makes evidence with a report of version 1.
func (w *World) V1(b Body) (*csv.Evidence, error) {
	e := w.evidence()
	r := e.Report[:]
	b.write(r)
	var anonce [4]byte
	le.PutUint32(anonce[:], b.Anonce)
	for i := range 188 {
		r[i] ^= anonce[i%4]
	}
	copy(r[188:], anonce[:])
	w.signer(r[336:])
	return e, sign(r[192:], w.pek, idPEK, r[:180])
}

// V2 makes evidence with a report of version 2 and its event log, if any.
func (w *World) V2(b Body, log []byte) (*csv.Evidence, error) {
	e := w.evidence()
	e.Magic, e.Flags, e.EventLog = csv.ExtendedMagic, 1, log
	r := e.Report[:]
	b.write(r)
	le.PutUint32(r[188:], 2200)
	le.PutUint16(r[192:], 1)
	copy(r[208:], b.Measure[:])
	for i, m := range b.RTMR {
		copy(r[240+32*i:], m[:])
	}
	w.signer(r[1168:])
	return e, sign(r[1024:], w.pek, idPEK, r[:1024])
}

func (w *World) evidence() *csv.Evidence {
	e := &csv.Evidence{PEK: w.PEK}
	copy(e.Serial[:], Serial)
	return e
}

func (w *World) signer(b []byte) {
	copy(b, w.PEK[:])
	copy(b[csv.CertSize:], Serial)
}

// SignWithCEK signs message with the chip's endorsement key; r and s have 72 bytes.
func (w *World) SignWithCEK(r, s, message []byte) error {
	var b [144]byte
	if err := sign(b[:], w.cek, idCEK, message); err != nil {
		return err
	}
	copy(r, b[:72])
	copy(s, b[72:])
	return nil
}
