// Package seal makes the two things that bind a pod to its secrets: the
// initdata document, which configures the TEE and whose digest the evidence
// carries, and the owner's signed statement that names this digest
// (api/initdata, api/seal; design.md section 3, step 1).
//
// Invariants: the same policy and settings give the same bytes, so that a pod
// sealed twice has one digest; the trustee is always named with its CA; nothing
// here is secret but the owner's key, whose file only the owner can read.
//
// Trust zone: owner.
package seal

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/podpolicy"
	apiseal "github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/tee/nvidia"
)

// Settings are what the guest must know beside the policy.
type Settings struct {
	// KBSURL is the trustee's base URL as the guest reaches it, https only.
	// KBSCert is the PEM of the CA that its certificate chains to.
	KBSURL  string
	KBSCert string
	// EventLog has the guest record run-time events (aa.toml, enable_eventlog).
	EventLog bool
	// Image configures the guest's image pulls.
	Image initdata.CDHImage
	// Devices are the kinds of devices beside the CPU, by wire name, without whose
	// evidence the pod gets nothing.
	Devices []string
	// BindChannel has the guest attest over no connection that its evidence does not cover.
	BindChannel bool
	// Identities are the SPIFFE identities that workloads may ask for through the guest.
	Identities []string
}

// AttestableDevices are the kinds of devices that Coffer's guest has an attester for.
var AttestableDevices = []string{nvidia.WireName}

// Algorithms of the documents to make, by the TEEs that the pod may run in; nil
// is sha256 alone (tpm-sim, SNP, TPM).
type Algorithms []initdata.Algorithm

// Sealed is a pod ready to be run.
type Sealed struct {
	// Documents are the plain initdata documents by algorithm.
	Documents map[initdata.Algorithm][]byte
	// Digests are their digests in lower-case hex, by algorithm.
	Digests map[string]string
	// PolicyDigest is "sha256:<hex>" of the policy's bytes.
	PolicyDigest string
}

// Make builds the initdata documents for a policy.
func Make(policy *podpolicy.Policy, s Settings, algorithms Algorithms) (*Sealed, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	raw, err := podpolicy.Encode(policy)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	var aa initdata.AAConfig
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: s.KBSURL, Cert: s.KBSCert}
	if s.EventLog {
		aa.EventlogConfig = &initdata.AAEventlog{EnableEventlog: true}
	}
	aa.BindChannel, aa.Identities = s.BindChannel, slices.Sorted(slices.Values(s.Identities))
	aa.AdditionalDevices = slices.Sorted(slices.Values(s.Devices))
	aaText, err := initdata.EncodeConfig(aa)
	if err != nil {
		return nil, fmt.Errorf("sealing: writing %s: %w", initdata.KeyAA, err)
	}
	cdhText, err := initdata.EncodeConfig(initdata.CDHConfig{
		KBC:   initdata.CDHKBC{Name: "cc_kbc", URL: s.KBSURL, KBSCert: s.KBSCert},
		Image: s.Image,
	})
	if err != nil {
		return nil, fmt.Errorf("sealing: writing %s: %w", initdata.KeyCDH, err)
	}
	sum := sha256.Sum256(raw)
	out := &Sealed{Documents: map[initdata.Algorithm][]byte{}, Digests: map[string]string{}, PolicyDigest: "sha256:" + hex.EncodeToString(sum[:])}
	if len(algorithms) == 0 {
		algorithms = Algorithms{initdata.SHA256}
	}
	for _, a := range algorithms {
		doc, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: a, Data: map[string]string{
			podpolicy.DataKey: string(raw), initdata.KeyAA: aaText, initdata.KeyCDH: cdhText,
		}})
		if err != nil {
			return nil, fmt.Errorf("sealing: %w", err)
		}
		digest, err := initdata.Digest(a, doc)
		if err != nil {
			return nil, fmt.Errorf("sealing: %w", err)
		}
		out.Documents[a], out.Digests[string(a)] = doc, hex.EncodeToString(digest)
	}
	return out, nil
}

// check refuses settings that the guest would refuse, while there is somebody
// to tell.
func (s *Settings) check() error {
	if err := errors.Join(initdata.CheckDevices(s.Devices), initdata.CheckIdentities(s.Identities)); err != nil {
		return err
	}
	for _, d := range s.Devices {
		if !slices.Contains(AttestableDevices, d) {
			return fmt.Errorf("devices: no guest attests to %.40q, only to %s", d, strings.Join(AttestableDevices, ", "))
		}
	}
	u, err := url.Parse(s.KBSURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("trustee URL %q: it must be https://host[:port][/path]", s.KBSURL)
	}
	rest := []byte(s.KBSCert)
	for n := 0; ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if n == 0 || strings.TrimSpace(string(rest)) != "" {
				return errors.New("trustee CA: not certificates in PEM")
			}
			return nil
		}
		if b.Type != "CERTIFICATE" {
			return fmt.Errorf("trustee CA: a PEM block %q, only CERTIFICATE belongs there", b.Type)
		}
	}
}

// Sign makes the owner's statement about a sealed pod. images are those that
// the pod was built with, by the pod's references.
func (s *Sealed) Sign(p *pod.Pod, images map[string]*spec.ResolvedImage, measurements []apiseal.Measurement, key crypto.Signer, now time.Time) (*apiseal.Seal, error) {
	st := &apiseal.Statement{
		Version:      apiseal.Version,
		Pod:          apiseal.Pod{Namespace: p.Namespace, Name: p.Name},
		Initdata:     s.Digests,
		Policy:       s.PolicyDigest,
		Measurements: measurements,
		Created:      now.UTC().Truncate(time.Second),
	}
	for _, c := range p.All() {
		img := images[c.Image]
		if img == nil {
			return nil, fmt.Errorf("signing the seal: %s.image: %s was not resolved", c.Path, c.Image)
		}
		st.Images = append(st.Images, apiseal.Image{Container: c.Name, Reference: c.Image, Digest: img.ManifestDigest})
	}
	return apiseal.Sign(st, key)
}
