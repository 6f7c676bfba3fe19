package eventlog

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Description is an event in the form that tokens and tools show; the JSON is
// the published one.
type Description struct {
	Details            map[string]any      `json:"details"`
	DigestMatchesEvent bool                `json:"digest_matches_event"`
	Digests            []DescriptionDigest `json:"digests"`
	Event              string              `json:"event"` // standard base64
	Index              uint32              `json:"index"`
	TypeName           string              `json:"type_name"`
}

// DescriptionDigest is one digest of a Description.
type DescriptionDigest struct {
	Alg    string `json:"alg"`
	Digest string `json:"digest"` // hex
}

// Describe says what an event claims. All of it is unverified text unless
// DigestMatchesEvent, and then it is what the measured component says of itself.
func (e *Event) Describe() Description {
	d := Description{
		Details: e.details(), Event: base64.StdEncoding.EncodeToString(e.Data),
		Index: e.Register, TypeName: e.Type.String(), DigestMatchesEvent: len(e.Digests) > 0,
	}
	for _, g := range e.Digests {
		d.Digests = append(d.Digests, DescriptionDigest{g.Algorithm.String(), hex.EncodeToString(g.Sum)})
		d.DigestMatchesEvent = d.DigestMatchesEvent && bytes.Equal(g.Algorithm.Hash(e.Data), g.Sum)
	}
	return d
}

// Describe gives all events in the published form, the claim uefi_event_logs.
func (l *Log) Describe() []Description {
	out := make([]Description, len(l.Events))
	for i := range l.Events {
		out[i] = l.Events[i].Describe()
	}
	return out
}

// Text gives one short printable line about the event, for denials.
func (e *Event) Text() string {
	d := e.details()
	for _, k := range []string{"string", "unicode_name"} {
		if s, ok := d[k].(string); ok && s != "" {
			return clean(s)
		}
	}
	if p, ok := d["device_paths"].([]string); ok {
		return clean(strings.Join(p, "/"))
	}
	return e.Type.String()
}

// clean keeps hostile text from breaking a line or a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > 120 {
		s = s[:120] + "..."
	}
	return s
}

func (e *Event) details() map[string]any {
	none := map[string]any{}
	switch e.Type {
	case refvalue.PlatformConfigFlags:
		return map[string]any{"string": configFlags(e.Data)}
	case refvalue.IPL, refvalue.PostCode, refvalue.EFIAction, refvalue.Action:
		return map[string]any{"string": cString(e.Data)}
	case refvalue.EFIHandoffTables2, refvalue.EFIPlatformFirmwareBlob2:
		c := &cursor{b: e.Data}
		s := c.take(uint32(c.u8()))
		return map[string]any{"string": cString(s)}
	case refvalue.EventTag:
		return tagged(e.Data)
	case refvalue.EFIVariableDriverConfig, refvalue.EFIVariableBoot, refvalue.EFIVariableBoot2, refvalue.EFIVariableAuthority:
		return variable(e.Data)
	case refvalue.EFIBootServicesApp, refvalue.EFIBootServicesDriver, refvalue.EFIRuntimeServicesDriver:
		c := &cursor{b: e.Data}
		c.take(24) // location, length, link-time address
		n := c.take(8)
		if c.err != nil {
			return none
		}
		size := binary.LittleEndian.Uint64(n)
		if size == 0 || size > uint64(len(c.b)) {
			return none
		}
		return map[string]any{"device_paths": devicePath(c.b[:size])}
	}
	return none
}

// cString gives the text before the first NUL.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "\ufffd")
}

func tagged(b []byte) map[string]any {
	c := &cursor{b: b}
	tag := c.u32()
	data := c.take(c.u32())
	if c.err != nil {
		return map[string]any{}
	}
	if tag != TagAAEL {
		return map[string]any{"string": cString(data)}
	}
	text := strings.ToValidUTF8(string(data), "\ufffd")
	d := map[string]any{"unicode_name": "AAEL", "string": text}
	if p := strings.SplitN(text, " ", 3); len(p) == 3 {
		d["data"] = map[string]any{"domain": p[0], "operation": p[1], "content": content(p[2])}
	}
	return d
}

// maxContentDepth is how deep a content may be nested to be shown as JSON.
const maxContentDepth = 16

// content is the JSON value that s is, or else s. Numbers stay as written. What
// policies and tokens could stumble over stays text too: a workload that records
// it must not make its pod unattestable.
func content(s string) any {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil || len(strings.TrimSpace(s[dec.InputOffset():])) > 0 || !plain(v, maxContentDepth) {
		return s
	}
	return v
}

// plain reports whether a value is nested at most so deep, and has only numbers
// that a float64 can hold.
func plain(v any, depth int) bool {
	if depth == 0 {
		return false
	}
	switch t := v.(type) {
	case json.Number:
		_, err := t.Float64()
		return err == nil
	case []any:
		for _, x := range t {
			if !plain(x, depth-1) {
				return false
			}
		}
	case map[string]any:
		for _, x := range t {
			if !plain(x, depth-1) {
				return false
			}
		}
	}
	return true
}

func variable(b []byte) map[string]any {
	c := &cursor{b: b}
	g := c.take(16)
	lens := c.take(16)
	if c.err != nil {
		return map[string]any{}
	}
	nameLen, dataLen := binary.LittleEndian.Uint64(lens), binary.LittleEndian.Uint64(lens[8:])
	if nameLen > uint64(len(c.b))/2 || dataLen > uint64(len(c.b))-2*nameLen {
		return map[string]any{}
	}
	name := utf16String(c.take(uint32(2 * nameLen)))
	data := c.take(uint32(dataLen))
	return map[string]any{
		"unicode_name": name, "unicode_name_length": nameLen,
		"variable_data": base64.StdEncoding.EncodeToString(data), "variable_data_length": dataLen,
		// The published form takes the GUID's bytes in order.
		"variable_name": fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:]),
	}
}

func utf16String(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(u))
}

// devicePath gives the nodes of a UEFI device path (UEFI specification,
// section 10.3), unknown ones as Path(type,subtype,hex).
func devicePath(b []byte) []string {
	out := []string{}
	for len(b) >= 4 && len(out) < 64 {
		typ, sub, n := b[0], b[1], int(binary.LittleEndian.Uint16(b[2:]))
		if typ == 0x7f || n < 4 || n > len(b) {
			break
		}
		out = append(out, pathNode(typ, sub, b[4:n]))
		b = b[n:]
	}
	return out
}

func pathNode(typ, sub byte, d []byte) string {
	switch le := binary.LittleEndian; {
	case typ == 1 && sub == 1 && len(d) == 2:
		return fmt.Sprintf("Pci(%d,%d)", d[0], d[1])
	case typ == 2 && sub == 1 && len(d) == 8 && le.Uint16(d) == 0x41d0: // compressed EISA id "PNP"
		return fmt.Sprintf("ACPI(PNP%04X,%d)", le.Uint16(d[2:]), le.Uint32(d[4:]))
	case typ == 4 && sub == 1 && len(d) == 38 && d[36] == 2 && d[37] == 2: // GPT
		return fmt.Sprintf("HD(%d,GPT,%s,%#x,%#x)", le.Uint32(d), guid(d[20:36]), le.Uint64(d[4:]), le.Uint64(d[12:]))
	case typ == 4 && sub == 3 && len(d) >= 16:
		return fmt.Sprintf("VenMedia(%s,%x)", guid(d[:16]), d[16:])
	case typ == 4 && sub == 4:
		return "File(" + strings.TrimRight(utf16String(d), "\x00") + ")"
	default:
		return fmt.Sprintf("Path(%d,%d,%x)", typ, sub, d)
	}
}

func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
