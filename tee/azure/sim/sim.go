// Package sim plays the paravisor of an Azure confidential VM and its virtual
// TPM, for simulated machines: the HCL report around a report of simulated SNP
// hardware, an attestation key that the report vouches for, registers, quotes,
// and the certificates that the metadata service has on Azure.
//
// The shapes are the real ones, so that tee/azure/attester works on it
// unchanged: TPM commands in, responses out, and the metadata service's
// document. Nothing is protected: whoever runs this process owns the key.
//
// Trust zone: simulated hardware (coffer-simhw), tests. The guest never links it.
package sim

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/snp"
)

// TDHardware plays a TDX machine: a TDREPORT of 1024 bytes, and the
// quoting enclave behind the metadata service.
type TDHardware interface {
	TDReport(reportData [64]byte) ([]byte, error)
	Quote(tdReport []byte) ([]byte, error)
}

// Options says what is played.
type Options struct {
	// Exactly one of them: az-snp-vtpm is played over a machine of tee/snp/sim
	// (report and certificate table), az-tdx-vtpm over a TD.
	SNP attest.Reporter
	TD  TDHardware
	// PCRs are the registers of the SHA-256 bank after the measured boot, see
	// ResetPCRs.
	PCRs [azure.PCRCount][32]byte
	// AK is the attestation key; nil: one is made.
	AK *rsa.PrivateKey
	// VMConfiguration is the paravisor's word on the VM; nil: a plausible one.
	VMConfiguration map[string]any
}

// ResetPCRs gives the registers as a reset leaves them: those of a dynamic
// launch all ones, the others zero.
func ResetPCRs() [azure.PCRCount][32]byte {
	var p [azure.PCRCount][32]byte
	for i := 17; i <= 22; i++ {
		for j := range p[i] {
			p[i][j] = 0xff
		}
	}
	return p
}

// VTPM is the paravisor with its TPM. It is safe for concurrent use.
type VTPM struct {
	mu    sync.Mutex
	snp   attest.Reporter
	td    TDHardware
	vm    map[string]any
	ak    *rsa.PrivateKey
	akPub tpm2.TPM2BPublic
	name  tpm2.TPM2BName // of the AK
	pcrs  [azure.PCRCount][32]byte
	nv    map[tpm2.TPMHandle]*nvIndex
	clock uint64
	certs []snp.Cert
}

var _ transport.TPM = (*VTPM)(nil)

type nvIndex struct {
	public tpm2.TPMSNVPublic
	data   []byte
}

// nvReport is the size of the index that holds the HCL report, as on Azure.
const nvReport = 2600

// New makes a VTPM and its first HCL report, whose user data is zero.
func New(o Options) (*VTPM, error) {
	if (o.SNP == nil) == (o.TD == nil) {
		return nil, errors.New("simulated vTPM: not exactly one kind of hardware")
	}
	v := &VTPM{snp: o.SNP, td: o.TD, ak: o.AK, pcrs: o.PCRs, vm: o.VMConfiguration, nv: map[tpm2.TPMHandle]*nvIndex{}}
	if v.vm == nil {
		v.vm = map[string]any{"console-enabled": true, "secure-boot": false, "tpm-enabled": true, "vmUniqueId": "00000000-0000-0000-0000-000000000000"}
	}
	if v.ak == nil {
		var err error
		if v.ak, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, fmt.Errorf("simulated vTPM: %w", err)
		}
	}
	v.setAK()
	v.nv[azure.NVReport] = &nvIndex{public: tpm2.TPMSNVPublic{
		NVIndex: azure.NVReport, NameAlg: tpm2.TPMAlgSHA256, DataSize: nvReport,
		Attributes: tpm2.TPMANV{PPWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, Written: true, PlatformCreate: true},
	}}
	if err := v.refresh(make([]byte, azure.UserDataSize)); err != nil {
		return nil, err
	}
	return v, nil
}

// setAK makes the key's public area: restricted, signing, made in this TPM.
func (v *VTPM) setAK() {
	area := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme:  tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
			KeyBits: tpm2.TPMKeyBits(v.ak.N.BitLen()),
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: v.ak.N.Bytes()}),
	}
	v.akPub, v.name = tpm2.New2B(area), nameOf(tpm2.Marshal(area))
}

func nameOf(area []byte) tpm2.TPM2BName {
	s := sha256.Sum256(area)
	return tpm2.TPM2BName{Buffer: append([]byte{0x00, 0x0b}, s[:]...)}
}

// refresh makes a new HCL report over user data.
func (v *VTPM) refresh(userData []byte) error {
	claims, err := json.Marshal(azure.RuntimeDocument{
		Keys: []azure.JWK{azure.NewJWK(&v.ak.PublicKey)}, VMConfiguration: v.vm, UserData: strings.ToUpper(hex.EncodeToString(userData)),
	})
	if err != nil {
		return fmt.Errorf("simulated vTPM: %w", err)
	}
	h := &azure.HCL{TEE: azure.SNP, RuntimeClaims: claims}
	var data [64]byte
	sum := h.ClaimsHash()
	copy(data[:], sum[:])
	if v.td != nil {
		h.TEE = azure.TDX
		h.Hardware, err = v.td.TDReport(data)
	} else {
		var table []byte
		if h.Hardware, table, err = v.snp.Report(context.Background(), data[:]); err == nil {
			v.certs, err = snp.ParseTable(table)
		}
	}
	if err != nil {
		return fmt.Errorf("simulated vTPM: %w", err)
	}
	b, err := azure.EncodeHCL(h)
	if err != nil {
		return fmt.Errorf("simulated vTPM: %w", err)
	}
	if len(b) > nvReport {
		return fmt.Errorf("simulated vTPM: HCL report of %d bytes, at most %d", len(b), nvReport)
	}
	v.nv[azure.NVReport].data = append(b, make([]byte, nvReport-len(b))...)
	return nil
}

// Extend extends a register, as the measured boot does.
func (v *VTPM) Extend(pcr int, digest [32]byte) error {
	if pcr < 0 || pcr >= azure.PCRCount {
		return fmt.Errorf("simulated vTPM: no PCR %d", pcr)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.extend(pcr, digest)
	return nil
}

func (v *VTPM) extend(pcr int, digest [32]byte) {
	v.pcrs[pcr] = sha256.Sum256(append(v.pcrs[pcr][:], digest[:]...))
}

// Close implements transport.TPMCloser.
func (v *VTPM) Close() error { return nil }
