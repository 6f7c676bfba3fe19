package quote

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/verify"
)

// Bound is what PCR 8 proves about initdata. Zero: the guest was started without.
type Bound struct {
	Digest   []byte // SHA-256 of the document
	Document *initdata.Document
}

// Initdata explains PCR 8: zero when the guest started, then extended once with
// the digest of the document that came, or with the fixed value for "no device".
type Initdata struct {
	Component string
	TEE       string // wire name
	Plain     []byte // document as received; nil: none came
	// InsecureSkip takes any value where no document came, see verify.Input.
	InsecureSkip bool
	// ZeroIsNone takes a register that was never extended for a guest without
	// initdata, as guests of other makes are. Such a guest can still extend it
	// later, so this never stands for a document.
	ZeroIsNone bool
}

// Check judges the quoted value of PCR 8.
func (i *Initdata) Check(measured [32]byte) (Bound, error) {
	none := measured == extendOnce(initdata.NoneDigest())
	zero := measured == [32]byte{}
	if i.Plain == nil {
		if none || zero && i.ZeroIsNone || i.InsecureSkip {
			return Bound{}, nil
		}
		return Bound{}, &denial.Denial{
			Reason: verify.ReasonInitdataMissing, Component: i.Component, Claim: "PCR 8: initdata", Measured: hex.EncodeToString(measured[:]),
			Expected: "the document that was measured", Source: "attestation request",
		}
	}
	sum := sha256.Sum256(i.Plain)
	if want := extendOnce(sum); measured != want {
		d := &denial.Denial{
			Reason: verify.ReasonInitdataMismatch, Component: i.Component, Claim: "PCR 8: initdata", Measured: hex.EncodeToString(measured[:]),
			Expected: hex.EncodeToString(want[:]), Source: "one extend of the sent document's SHA-256 " + hex.EncodeToString(sum[:]),
		}
		if none || zero && i.ZeroIsNone {
			d.Reason, d.Detail = verify.ReasonInitdataUnexpected, "the guest was started without initdata"
		}
		return Bound{}, d
	}
	doc, err := initdata.Parse(i.Plain)
	if err == nil {
		err = doc.CheckAlgorithm(i.TEE)
	}
	if err != nil {
		return Bound{}, verify.Deny(verify.ReasonInitdataMalformed, i.Component, "initdata", err)
	}
	return Bound{sum[:], doc}, nil
}

// extendOnce gives a register that was zero and was extended with one digest.
func extendOnce(digest [32]byte) [32]byte {
	return sha256.Sum256(append(make([]byte, 32), digest[:]...))
}
