package swtpm

import (
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Where the TCG EK Credential Profile puts an ECC P-384 key and its certificate.
const (
	ekHandle = 0x81010016
	ekCertNV = 0x01c00016
)

// policyBSHA384 is PolicyB of the profile, section B.6.5.
const policyBSHA384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"

// ekTemplate is template H-3 of the profile: ECC NIST P-384, high range.
func ekTemplate() tpm2.TPMTPublic {
	policy, err := hex.DecodeString(policyBSHA384)
	if err != nil {
		panic(err)
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA384,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
			CurveID: tpm2.TPMECCNistP384,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// manufacture does to a fresh, started TPM what a maker does once.
func manufacture(rw io.ReadWriter, ca *CA) error {
	t := pipe{rw}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(ekTemplate()),
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("creating the endorsement key: %w", err)
	}
	pub, err := ekPublic(rsp.OutPublic)
	if err != nil {
		return err
	}
	if _, err := (tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		PersistentHandle: ekHandle,
	}).Execute(t); err != nil {
		return fmt.Errorf("persisting the endorsement key: %w", err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(t); err != nil {
		return fmt.Errorf("flushing the endorsement key: %w", err)
	}
	cert, err := ca.issue(pub)
	if err != nil {
		return err
	}
	if err := writeNV(t, ekCertNV, cert); err != nil {
		return fmt.Errorf("storing the endorsement certificate: %w", err)
	}
	if err := onlySHA256(t); err != nil {
		return err
	}
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(t); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}

func ekPublic(b tpm2.TPM2BPublic) (*ecdsa.PublicKey, error) {
	p, err := b.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the endorsement key: %w", err)
	}
	k, err := tpm2.Pub(*p)
	if err != nil {
		return nil, fmt.Errorf("reading the endorsement key: %w", err)
	}
	ec, ok := k.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("reading the endorsement key: not an ECC key")
	}
	return ec, nil
}

// writeNV defines an index as a manufacturer does: everybody reads it, only the
// platform could write it, and it is locked.
func writeNV(t transport.TPM, index tpm2.TPMHandle, data []byte) error {
	pub := tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true,
			AuthRead: true, NoDA: true, PlatformCreate: true, NT: tpm2.TPMNTOrdinary,
		},
		DataSize: uint16(len(data)),
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(pub)}).Execute(t); err != nil {
		return err
	}
	const chunk = 1024
	for off := 0; off < len(data); off += chunk {
		h, err := nvHandle(t, index)
		if err != nil {
			return err
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    h,
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[off:min(off+chunk, len(data))]},
			Offset:     uint16(off),
		}).Execute(t); err != nil {
			return err
		}
	}
	h, err := nvHandle(t, index)
	if err != nil {
		return err
	}
	_, err = tpm2.NVWriteLock{AuthHandle: tpm2.TPMRHPlatform, NVIndex: h}.Execute(t)
	return err
}

// nvHandle gives the index with its present name, which changes by writing.
func nvHandle(t transport.TPM, index tpm2.TPMHandle) (*tpm2.NamedHandle, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return nil, err
	}
	return &tpm2.NamedHandle{Handle: index, Name: r.NVName}, nil
}

// onlySHA256 turns every other PCR bank off from the next start on: firmware
// and kernel then measure once, not four times. (go-tpm has no PCR_Allocate.)
func onlySHA256(t transport.TPM) error {
	banks := []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}
	body := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHPlatform))
	body = binary.BigEndian.AppendUint32(body, 9)                    // authorisation area:
	body = binary.BigEndian.AppendUint32(body, uint32(tpm2.TPMRSPW)) // a password session
	body = append(body, 0, 0, 0, 0, 0)                               // with the empty password
	body = binary.BigEndian.AppendUint32(body, uint32(len(banks)))
	for _, b := range banks {
		body = binary.BigEndian.AppendUint16(body, uint16(b))
		if b == tpm2.TPMAlgSHA256 {
			body = append(body, 3, 0xff, 0xff, 0xff)
		} else {
			body = append(body, 3, 0, 0, 0)
		}
	}
	const headerLen = 10
	cmd := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(headerLen+len(body)))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMCCPCRAllocate))
	rsp, err := t.Send(append(cmd, body...))
	if err != nil {
		return fmt.Errorf("choosing PCR banks: %w", err)
	}
	if rc := binary.BigEndian.Uint32(rsp[6:]); rc != 0 {
		return fmt.Errorf("choosing PCR banks: %w", tpm2.TPMRC(rc))
	}
	return nil
}

// pipe is a TPM on a byte stream: one command, one response.
type pipe struct{ rw io.ReadWriter }

const maxResponse = 8 << 10

func (p pipe) Send(command []byte) ([]byte, error) {
	if _, err := p.rw.Write(command); err != nil {
		return nil, fmt.Errorf("sending a TPM command: %w", err)
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(p.rw, head); err != nil {
		return nil, fmt.Errorf("reading a TPM response: %w", err)
	}
	n := binary.BigEndian.Uint32(head[2:])
	if n < uint32(len(head)) || n > maxResponse {
		return nil, fmt.Errorf("reading a TPM response: length %d", n)
	}
	rsp := make([]byte, n)
	copy(rsp, head)
	if _, err := io.ReadFull(p.rw, rsp[len(head):]); err != nil {
		return nil, fmt.Errorf("reading a TPM response: %w", err)
	}
	return rsp, nil
}
