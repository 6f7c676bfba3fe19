package spdm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Field is the type of an opaque data item.
type Field uint16

// Fields that the verifier reads.
const (
	FieldDriverVersion Field = 3
	FieldVBIOSVersion  Field = 6
	FieldNVDEC0Status  Field = 11
	FieldChipSKU       Field = 15
	FieldProject       Field = 17
	FieldProjectSKU    Field = 18
	FieldFWID          Field = 20
	FieldSwitchPDI     Field = 22
	FieldSwitchGPUPDIs Field = 26
	FieldFeatureFlag   Field = 36
)

// names are NVIDIA's, as the published claims spell them. What is not here is
// refused.
var names = map[Field]string{
	1: "cert_issuer_name", 2: "cert_authority_key_identifier", FieldDriverVersion: "driver_version", 4: "gpu_info", 5: "id_sku",
	FieldVBIOSVersion: "vbios_version", 7: "manufacturer_id", 8: "tamper_detection", 9: "smc", 10: "vpr", FieldNVDEC0Status: "nvdec0_status",
	12: "measurement_count", 13: "cpr_info", 14: "board_id", FieldChipSKU: "chip_sku", 16: "chip_sku_mod", FieldProject: "project",
	FieldProjectSKU: "project_sku", 19: "project_sku_mod", FieldFWID: "fwid", 21: "protected_pcie_status", FieldSwitchPDI: "switch_pdi",
	23: "floorswept_ports", 24: "position_id", 25: "lock_switch_status", 32: "gpu_link_conn", 33: "sys_enable_status",
	34: "opaque_data_version", 35: "chip_info", FieldFeatureFlag: "feature_flag",
	// Of NVSwitches; the published codec does not know it.
	FieldSwitchGPUPDIs: "switch_gpu_pdis",
}

// Limits of opaque data.
const (
	maxItems = 64
	pdiSize  = 8
)

// Opaque is the opaque data of a response.
type Opaque struct {
	items map[Field][]byte
}

func parseOpaque(b []byte) (*Opaque, error) {
	o, c := &Opaque{map[Field][]byte{}}, cursor{b: b}
	for c.off < len(b) {
		h, err := c.take(4)
		if err != nil {
			return nil, err
		}
		f := Field(binary.LittleEndian.Uint16(h))
		if _, known := names[f]; !known {
			return nil, fmt.Errorf("unknown field %d", f)
		}
		if _, dup := o.items[f]; dup {
			return nil, fmt.Errorf("field %s comes twice", names[f])
		}
		if len(o.items) == maxItems {
			return nil, fmt.Errorf("more than %d fields", maxItems)
		}
		if o.items[f], err = c.take(int(binary.LittleEndian.Uint16(h[2:]))); err != nil {
			return nil, fmt.Errorf("field %s: %w", names[f], err)
		}
		if _, err := o.decode(f); err != nil {
			return nil, fmt.Errorf("field %s: %w", names[f], err)
		}
	}
	return o, nil
}

// Raw gives a field's bytes.
func (o *Opaque) Raw(f Field) ([]byte, bool) {
	b, ok := o.items[f]
	return b, ok
}

// Text gives a field that claims show as text; "" if it is not there.
func (o *Opaque) Text(f Field) string {
	v, err := o.decode(f)
	if err != nil {
		return ""
	}
	s, _ := v.(string)
	return s
}

// PDIs gives the identifiers of field 22 or 26 in hex; nil if it is not there.
func (o *Opaque) PDIs(f Field) []string {
	b := o.items[f]
	if len(b)%pdiSize != 0 {
		return nil
	}
	var out []string
	for c := range slices.Chunk(b, pdiSize) {
		out = append(out, hex.EncodeToString(c))
	}
	return out
}

// Claims gives all fields under their published names, decoded as published.
func (o *Opaque) Claims() map[string]any {
	out := make(map[string]any, len(o.items))
	for f := range o.items {
		if v, err := o.decode(f); err == nil {
			out[names[f]] = v
		}
	}
	return out
}

func (o *Opaque) decode(f Field) (any, error) {
	b, ok := o.items[f]
	if !ok {
		return nil, errors.New("not there")
	}
	switch f {
	case FieldDriverVersion, FieldChipSKU, 16, FieldProject, FieldProjectSKU, 35:
		s := strings.TrimRight(string(b), "\x00")
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, errors.New("not a text")
		}
		return s, nil
	case FieldVBIOSVersion:
		return vbiosVersion(b)
	case FieldNVDEC0Status:
		switch {
		case bytes.Equal(b, []byte{0xaa}):
			return "enabled", nil
		case bytes.Equal(b, []byte{0x55}):
			return "disabled", nil
		}
		return nil, fmt.Errorf("neither enabled nor disabled: %x", b)
	case 12:
		if len(b)%4 != 0 || len(b)/4 > 255 {
			return nil, fmt.Errorf("%d bytes", len(b))
		}
		m := make(map[string]any, len(b)/4)
		for i := range len(b) / 4 {
			m[strconv.Itoa(i+1)] = binary.LittleEndian.Uint32(b[4*i:])
		}
		return m, nil
	case FieldSwitchPDI, FieldSwitchGPUPDIs:
		if len(b)%pdiSize != 0 {
			return nil, fmt.Errorf("%d bytes are not identifiers of %d", len(b), pdiSize)
		}
		return o.PDIs(f), nil
	case 34:
		return littleEndian(b)
	case FieldFeatureFlag:
		n, err := littleEndian(b)
		if err != nil {
			return nil, err
		}
		return [...]string{"SPT", "MPT", "PPCIE", "unknown"}[min(n, 3)], nil
	}
	return hex.EncodeToString(b), nil
}

// vbiosVersion prints the first half of the bytes from last to first, then the
// first byte of the second half: 00 74 00 96 1a 00 00 00 is 96.00.74.00.1a.
func vbiosVersion(b []byte) (string, error) {
	if len(b) < 2 || len(b) > 16 {
		return "", fmt.Errorf("%d bytes", len(b))
	}
	var parts []string
	for i := len(b)/2 - 1; i >= 0; i-- {
		parts = append(parts, fmt.Sprintf("%02x", b[i]))
	}
	return strings.Join(append(parts, fmt.Sprintf("%02x", b[len(b)/2])), "."), nil
}

func littleEndian(b []byte) (uint64, error) {
	if len(b) > 8 {
		return 0, fmt.Errorf("number of %d bytes", len(b))
	}
	var p [8]byte
	copy(p[:], b)
	return binary.LittleEndian.Uint64(p[:]), nil
}
