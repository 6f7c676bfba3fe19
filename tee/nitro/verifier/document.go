package verifier

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/nitro/cbor"
)

// Limits of a document, in bytes; AWS's own are at most these.
const (
	maxModuleID    = 256
	maxCertificate = 1024
	maxUserData    = 1024
	maxPublicKey   = 1024
	maxTimestamp   = 1 << 48 // milliseconds
)

// document is an attestation document as it was read.
type document struct {
	toBeSigned []byte // Sig_structure of RFC 9052, section 4.4
	signature  []byte

	moduleID                   string
	tpm                        bool // nitrotpm_pcrs
	timestamp                  time.Time
	pcrs                       map[int][]byte
	certificates               [][]byte            // DER, leaf first
	chain                      []*x509.Certificate // set once it is verified
	userData, nonce, publicKey []byte              // nil: not there
}

// protectedES384 is the protected header {1: -35}.
var protectedES384 = []byte{0xa1, 0x01, 0x38, 0x22}

// parseDocument reads a COSE_Sign1, tagged or not.
func parseDocument(b []byte) (*document, error) {
	v, err := cbor.Decode(b)
	if err != nil {
		return nil, err
	}
	if t, ok := v.(cbor.Tag); ok && t.Number == 18 {
		v = t.Value
	}
	parts, ok := v.([]any)
	if !ok || len(parts) != 4 {
		return nil, errors.New("not a COSE_Sign1")
	}
	protected, ok1 := parts[0].([]byte)
	unprotected, ok2 := parts[1].(cbor.Map)
	payload, ok3 := parts[2].([]byte)
	signature, ok4 := parts[3].([]byte)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return nil, errors.New("not a COSE_Sign1")
	}
	if !slices.Equal(protected, protectedES384) || len(unprotected) > 0 || len(signature) != 96 {
		return nil, errors.New("not signed by ES384, or with other headers")
	}
	d := &document{signature: signature}
	if d.toBeSigned, err = cbor.Encode([]any{"Signature1", protected, []byte{}, payload}); err != nil {
		return nil, err
	}
	if v, err = cbor.Decode(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	m, ok := v.(cbor.Map)
	if !ok {
		return nil, errors.New("payload: not a map")
	}
	if err := d.readPayload(m); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return d, nil
}

func (d *document) readPayload(m cbor.Map) error {
	var certificate []byte
	var bundle [][]byte
	seen := map[string]bool{}
	for _, x := range m {
		name, _ := x.Key.(string)
		var err error
		switch name {
		case "module_id":
			d.moduleID, err = text(x.Value, maxModuleID)
		case "digest":
			if x.Value != "SHA384" {
				err = errors.New("not SHA384")
			}
		case "timestamp":
			ms, ok := x.Value.(uint64)
			if !ok || ms == 0 || ms > maxTimestamp {
				err = errors.New("not a time")
			}
			d.timestamp = time.UnixMilli(int64(ms)).UTC()
		case "pcrs", "nitrotpm_pcrs":
			if d.pcrs != nil {
				err = errors.New("registers of two kinds")
				break
			}
			d.tpm = name == "nitrotpm_pcrs"
			d.pcrs, err = registers(x.Value)
			name = "pcrs"
		case "certificate":
			certificate, err = bytesUpTo(x.Value, maxCertificate)
		case "cabundle":
			bundle, err = list(x.Value)
		case "public_key":
			d.publicKey, err = optional(x.Value, maxPublicKey)
		case "user_data":
			d.userData, err = optional(x.Value, maxUserData)
		case "nonce":
			d.nonce, err = optional(x.Value, maxUserData)
		default:
			err = errors.New("unknown member")
		}
		if err != nil {
			return fmt.Errorf("%.40v: %w", x.Key, err)
		}
		seen[name] = true
	}
	for _, n := range []string{"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"} {
		if !seen[n] {
			return fmt.Errorf("%s is missing", n)
		}
	}
	// The bundle starts with the root; a chain starts with the leaf.
	slices.Reverse(bundle)
	d.certificates = append([][]byte{certificate}, bundle...)
	return nil
}

func registers(v any) (map[int][]byte, error) {
	m, ok := v.(cbor.Map)
	if !ok || len(m) == 0 || len(m) > nitro.Registers {
		return nil, errors.New("not a map of registers")
	}
	out := make(map[int][]byte, len(m))
	for _, x := range m {
		i, ok := x.Key.(uint64)
		b, isBytes := x.Value.([]byte)
		if !ok || !isBytes || i >= nitro.Registers || len(b) != nitro.PCRSize {
			return nil, fmt.Errorf("register %v", x.Key)
		}
		out[int(i)] = b
	}
	return out, nil
}

func text(v any, limit int) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" || len(s) > limit {
		return "", fmt.Errorf("not a text of 1 to %d bytes", limit)
	}
	return s, nil
}

func bytesUpTo(v any, limit int) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok || len(b) == 0 || len(b) > limit {
		return nil, fmt.Errorf("not 1 to %d bytes", limit)
	}
	return b, nil
}

// optional reads bytes that may be null or empty.
func optional(v any, limit int) ([]byte, error) {
	b, ok := v.([]byte)
	if v != nil && !ok || len(b) > limit {
		return nil, fmt.Errorf("not up to %d bytes", limit)
	}
	return b, nil
}

func list(v any) ([][]byte, error) {
	l, ok := v.([]any)
	if !ok || len(l) == 0 || len(l) >= certchain.MaxCertificates {
		return nil, errors.New("not a list of certificates")
	}
	out := make([][]byte, len(l))
	for i := range l {
		var err error
		if out[i], err = bytesUpTo(l[i], maxCertificate); err != nil {
			return nil, err
		}
	}
	return out, nil
}
