package ocicrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Annotations of an encrypted layer's descriptor.
const (
	AnnotationKeys    = "org.opencontainers.image.enc.keys.provider.attestation-agent"
	AnnotationPubOpts = "org.opencontainers.image.enc.pubopts"

	annotationPrefix = "org.opencontainers.image.enc.keys."
)

// Bounds on an encrypted layer's annotations.
const (
	MaxAnnotation = 256 << 10 // bytes of one annotation
	MaxRecipients = 32
	maxPLBCO      = 64 << 10 // bytes of the wrapped private options
)

// PacketVersion is the only version of the annotation packet.
const PacketVersion = "0.1.0"

// WrapA256GCM is the algorithm that wraps a layer's options under a key encryption key (KEK).
const WrapA256GCM = "A256GCM"

// Packet is one recipient's entry of AnnotationKeys: the layer's private
// options, wrapped under the key that KID names. The older form has only KID,
// WrappedData, IV and WrapType; the newer one adds the rest.
type Packet struct {
	Version          string            `json:"version,omitempty"`
	KID              string            `json:"kid"`
	WrappedData      []byte            `json:"wrapped_data"`
	Provider         string            `json:"provider,omitempty"`
	ProviderSettings map[string]any    `json:"provider_settings,omitempty"`
	Annotations      map[string]string `json:"annotations,omitempty"`
	IV               []byte            `json:"iv,omitempty"`
	WrapType         string            `json:"wrap_type,omitempty"`
}

// ParsePacket reads one packet, older or newer form.
func ParsePacket(b []byte) (*Packet, error) {
	if len(b) > MaxAnnotation {
		return nil, fmt.Errorf("annotation packet of %d bytes: more than %d", len(b), MaxAnnotation)
	}
	var p Packet
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("parsing annotation packet: %w", err)
	}
	if p.Version != "" && p.Version != PacketVersion {
		return nil, fmt.Errorf("annotation packet: version %.40q, expected %s", p.Version, PacketVersion)
	}
	if p.Provider == "" {
		p.Provider = "kbs"
	}
	if p.KID == "" || len(p.WrappedData) == 0 {
		return nil, errors.New("annotation packet: kid or wrapped_data is missing")
	}
	if len(p.WrappedData) > maxPLBCO {
		return nil, fmt.Errorf("annotation packet: wrapped_data of %d bytes: more than %d", len(p.WrappedData), maxPLBCO)
	}
	if p.Provider == "kbs" && (len(p.IV) == 0 || p.WrapType == "") {
		return nil, errors.New("annotation packet: iv or wrap_type is missing")
	}
	return &p, nil
}

// Open unwraps the private layer options with the packet's KEK (32 bytes). Only
// A256GCM is accepted: the published A256CTR form is not authenticated, and no
// tool has ever produced it (the published one's parameter for it has no effect).
func (p *Packet) Open(kek []byte) ([]byte, error) {
	gcm, err := p.gcm(kek)
	if err != nil {
		return nil, err
	}
	out, err := gcm.Open(nil, p.IV, p.WrappedData, nil)
	if err != nil {
		return nil, fmt.Errorf("unwrapping with key %.200q: it is not the key the layer was encrypted for, or the annotation was changed", p.KID)
	}
	return out, nil
}

func (p *Packet) gcm(kek []byte) (cipher.AEAD, error) {
	if p.WrapType != WrapA256GCM {
		return nil, fmt.Errorf("annotation packet: wrap_type %.40q is not supported, only %s", p.WrapType, WrapA256GCM)
	}
	if len(kek) != 32 {
		return nil, fmt.Errorf("key %.200q has %d bytes, expected 32", p.KID, len(kek))
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("key %.200q: %w", p.KID, err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key %.200q: %w", p.KID, err)
	}
	if len(p.IV) != gcm.NonceSize() {
		return nil, fmt.Errorf("annotation packet: iv of %d bytes, expected %d", len(p.IV), gcm.NonceSize())
	}
	return gcm, nil
}

// Packets gives the packets (JSON) in an encrypted layer's annotations, one for
// each recipient, in their order.
func Packets(annotations map[string]string) ([][]byte, error) {
	list, ok := annotations[AnnotationKeys]
	if !ok || list == "" {
		var others []string
		for k := range annotations {
			if name, ok := strings.CutPrefix(k, annotationPrefix); ok && len(others) < 8 {
				others = append(others, name)
			}
		}
		if len(others) > 0 {
			return nil, fmt.Errorf("encrypted for %.200q only, not for provider.attestation-agent", others)
		}
		return nil, fmt.Errorf("encrypted layer without annotation %s", AnnotationKeys)
	}
	if len(list) > MaxAnnotation {
		return nil, fmt.Errorf("annotation %s of %d bytes: more than %d", AnnotationKeys, len(list), MaxAnnotation)
	}
	parts := strings.Split(list, ",")
	if len(parts) > MaxRecipients {
		return nil, fmt.Errorf("annotation %s has %d recipients: more than %d", AnnotationKeys, len(parts), MaxRecipients)
	}
	out := make([][]byte, len(parts))
	for i, s := range parts {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("annotation %s, recipient %d: %w", AnnotationKeys, i, err)
		}
		out[i] = b
	}
	return out, nil
}
