package sim

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/azure"
)

// maxRead is how many registers one PCR_Read gives.
const maxRead = 8

// selection reads a TPML_PCR_SELECTION of the SHA-256 bank alone.
func (r *reader) selection() (pcrs []int, ok bool) {
	if r.u32() != 1 || r.u16() != uint16(tpm2.TPMAlgSHA256) {
		return nil, false
	}
	n := r.take(1)
	if n == nil || n[0] > 4 {
		return nil, false
	}
	for i, bits := range r.take(int(n[0])) {
		for bit := range 8 {
			if bits&(1<<bit) != 0 {
				pcrs = append(pcrs, 8*i+bit)
			}
		}
	}
	return pcrs, !r.bad && (len(pcrs) == 0 || pcrs[len(pcrs)-1] < azure.PCRCount)
}

func selected(pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3)
	for _, p := range pcrs {
		bits[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}}
}

func (v *VTPM) pcrRead(c *command) ([]byte, uint32) {
	pcrs, ok := c.params.selection()
	if !ok || !c.params.end() {
		return nil, rcValue
	}
	pcrs = pcrs[:min(len(pcrs), maxRead)]
	out := binary.BigEndian.AppendUint32(nil, uint32(v.clock)) // update counter
	out = append(out, tpm2.Marshal(selected(pcrs))...)
	var d tpm2.TPMLDigest
	for _, p := range pcrs {
		d.Digests = append(d.Digests, tpm2.TPM2BDigest{Buffer: v.pcrs[p][:]})
	}
	return append(out, tpm2.Marshal(d)...), rcOK
}

func (v *VTPM) pcrExtend(c *command) ([]byte, uint32) {
	pcr := c.handles[0]
	n, alg, d := c.params.u32(), c.params.u16(), c.params.take(32)
	switch {
	case n != 1 || alg != uint16(tpm2.TPMAlgSHA256) || !c.params.end():
		return nil, rcValue
	case pcr >= azure.PCRCount:
		return nil, rcHandle
	case pcr >= 17 && pcr <= 22: // of a dynamic launch; locality 0 may not
		return nil, rcLocality
	}
	v.extend(int(pcr), [32]byte(d))
	return nil, rcOK
}

func (v *VTPM) readPublic(c *command) ([]byte, uint32) {
	switch {
	case c.handles[0] != azure.AKHandle:
		return nil, rcHandle
	case !c.params.end():
		return nil, rcSize
	}
	out := append(tpm2.Marshal(v.akPub), tpm2.Marshal(v.name)...)
	return append(out, tpm2.Marshal(v.qualifiedName())...), rcOK
}

// qualifiedName is the AK's below the owner's primary seed.
func (v *VTPM) qualifiedName() tpm2.TPM2BName {
	return nameOf(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHOwner)), v.name.Buffer...))
}

func (v *VTPM) quote(c *command) ([]byte, uint32) {
	data, scheme := c.params.sized(), c.params.u16()
	pcrs, ok := c.params.selection()
	switch {
	case c.handles[0] != azure.AKHandle:
		return nil, rcHandle
	case !ok || !c.params.end() || len(data) > 64 || scheme != uint16(tpm2.TPMAlgNull):
		return nil, rcValue
	}
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(v.pcrs[p][:])
	}
	msg := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, QualifiedSigner: v.qualifiedName(), ExtraData: tpm2.TPM2BData{Buffer: data},
		ClockInfo: tpm2.TPMSClockInfo{Clock: v.clock, ResetCount: 1, Safe: true}, FirmwareVersion: 1,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: selected(pcrs), PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)}}),
	})
	sum := sha256.Sum256(msg)
	sig, err := rsa.SignPKCS1v15(rand.Reader, v.ak, crypto.SHA256, sum[:])
	if err != nil {
		return nil, rcFailure
	}
	out := append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
	return append(out, tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}}),
	})...), rcOK
}

// getCapability tells the vendor: a simulation says so wherever it is asked.
func (v *VTPM) getCapability(c *command) ([]byte, uint32) {
	be := binary.BigEndian
	capability, property, count := tpm2.TPMCap(c.params.u32()), c.params.u32(), c.params.u32()
	if !c.params.end() {
		return nil, rcSize
	}
	out := be.AppendUint32([]byte{0}, uint32(capability))
	switch capability {
	case tpm2.TPMCapHandles:
		if property>>24 == 0x81 && count > 0 && property <= azure.AKHandle {
			return be.AppendUint32(be.AppendUint32(out, 1), azure.AKHandle), rcOK
		}
		return be.AppendUint32(out, 0), rcOK
	case tpm2.TPMCapTPMProperties:
		var body []byte
		n := uint32(0)
		for i, text := range []string{"CSIM", "SW S", "IMUL", "ATIO", "N\x00\x00\x00"} {
			if p := uint32(tpm2.TPMPTManufacturer) + uint32(i); p >= property && n < count {
				body = append(be.AppendUint32(body, p), text...)
				n++
			}
		}
		return append(be.AppendUint32(out, n), body...), rcOK
	}
	return nil, rcValue
}
