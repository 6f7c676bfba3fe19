package attester

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Vendor is what a TPM says of itself.
type Vendor struct {
	Manufacturer string // "IBM", "INTC", ...
	Strings      string // the four vendor strings joined
}

// String gives both in one line.
func (v Vendor) String() string { return fmt.Sprintf("%q %q", v.Manufacturer, v.Strings) }

// Software reports whether the TPM names itself software: libtpms (swtpm) says
// "SW   TPM", the reference implementation has the manufacturer "XYZ". It keeps
// honest hosts from mistakes; what a dishonest one says is for the trustee to
// judge by the endorsement certificate.
func (v Vendor) Software() bool {
	return strings.HasPrefix(v.Strings, "SW") || v.Manufacturer == "XYZ"
}

// ReadVendor reads the fixed properties.
func ReadVendor(t transport.TPM) (Vendor, error) {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 5,
	}.Execute(t)
	if err != nil {
		return Vendor{}, fmt.Errorf("reading TPM vendor: %w", err)
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return Vendor{}, fmt.Errorf("reading TPM vendor: %w", err)
	}
	var v Vendor
	for _, p := range props.TPMProperty {
		text := strings.Map(func(r rune) rune {
			if r < 0x20 || r > 0x7e {
				return -1
			}
			return r
		}, string(binary.BigEndian.AppendUint32(nil, p.Value)))
		if p.Property == tpm2.TPMPTManufacturer {
			v.Manufacturer = strings.TrimSpace(text)
		} else if p.Property <= tpm2.TPMPTVendorString4 {
			v.Strings += text
		}
	}
	return v, nil
}
