package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
)

// SEVMeasurement is what a launch of SEV or SEV-ES that was started with a session
// measured: the node posts it as JSON to SNPParams.SecretService, and its answer is a
// SEVSecret.
type SEVMeasurement struct {
	APIMajor uint8  `json:"api_major"` // of the platform's SEV firmware
	APIMinor uint8  `json:"api_minor"`
	Build    uint8  `json:"build"`
	Policy   uint32 `json:"policy"`  // of the guest, by the host's word
	Measure  []byte `json:"measure"` // HMAC-SHA256 over all of it, under the session's key
	Nonce    []byte `json:"nonce"`   // 16 bytes
}

// Sizes of SEV's fields in bytes.
const (
	sevMeasureSize = 32
	sevNonceSize   = 16
	sevHeaderSize  = 52
	maxSEVSecret   = 16 << 10 // the secure processor takes no more
	// SEVDHCertSize and SEVSessionSize are those of SNPParams.DHCert and Session.
	SEVDHCertSize  = 2084
	SEVSessionSize = 128
)

// ParseSEVMeasurement reads a measurement as JSON; other members are errors.
func ParseSEVMeasurement(b []byte) (*SEVMeasurement, error) {
	m := new(SEVMeasurement)
	if err := strict(b, m); err != nil {
		return nil, fmt.Errorf("sev measurement: %w", err)
	}
	return m, m.Check()
}

// ParseSEVSecret reads a packet as JSON; other members are errors.
func ParseSEVSecret(b []byte) (*SEVSecret, error) {
	s := new(SEVSecret)
	if err := strict(b, s); err != nil {
		return nil, fmt.Errorf("sev secret: %w", err)
	}
	return s, s.Check()
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

// Check reports what makes m no measurement.
func (m *SEVMeasurement) Check() error {
	if m == nil || len(m.Measure) != sevMeasureSize || len(m.Nonce) != sevNonceSize {
		return fmt.Errorf("sev measurement: measure and nonce are not %d and %d bytes", sevMeasureSize, sevNonceSize)
	}
	return nil
}

// SEVSecret is the packet that carries an owner's secret into one launch, encrypted
// and authenticated for the platform's secure processor.
type SEVSecret struct {
	Header []byte `json:"header"` // 52 bytes
	Secret []byte `json:"secret"` // encrypted; a multiple of 16 bytes
}

// Check reports what makes s no packet.
func (s *SEVSecret) Check() error {
	if s == nil || len(s.Header) != sevHeaderSize {
		return fmt.Errorf("sev secret: header is not %d bytes", sevHeaderSize)
	}
	if n := len(s.Secret); n == 0 || n > maxSEVSecret || n%sevNonceSize != 0 {
		return fmt.Errorf("sev secret: secret of %d bytes is no multiple of %d up to %d", n, sevNonceSize, maxSEVSecret)
	}
	return nil
}

// checkSEVSecret reports what keeps a launch from being handed a secret.
func (p *SNPParams) checkSEVSecret() error {
	n := 0
	for _, set := range []bool{len(p.DHCert) > 0, len(p.Session) > 0, p.SecretService != ""} {
		if set {
			n++
		}
	}
	switch {
	case n == 0:
		return nil
	case n != 3:
		return errors.New("launch spec: snp: dh_cert, session and secret_service: all or none")
	case len(p.DHCert) != SEVDHCertSize || len(p.Session) != SEVSessionSize:
		return fmt.Errorf("launch spec: snp: dh_cert of %d bytes and session of %d, not %d and %d", len(p.DHCert), len(p.Session), SEVDHCertSize, SEVSessionSize)
	}
	u, err := url.Parse(p.SecretService)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("launch spec: snp: secret_service: %.100q is no URL of HTTP", p.SecretService)
	}
	return nil
}
