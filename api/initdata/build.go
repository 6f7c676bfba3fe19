package initdata

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Build writes a document: members sorted by name, so that equal documents are
// equal bytes. The bytes it gives are what is hashed and carried.
func Build(d *Document) ([]byte, error) {
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("building initdata: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = %s\nalgorithm = %s\n\n[data]\n", basic(d.Version), basic(string(d.Algorithm)))
	keys := make([]string, 0, len(d.Data))
	for k := range d.Data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := d.Data[k]
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return nil, fmt.Errorf("building initdata: member %.40q is not UTF-8", k)
		}
		fmt.Fprintf(&b, "%s = %s\n", basic(k), value(v))
	}
	if b.Len() > MaxPlain {
		return nil, fmt.Errorf("building initdata: %d bytes, at most %d", b.Len(), MaxPlain)
	}
	return []byte(b.String()), nil
}

// value writes a string so that people can read the document: as a multi-line
// literal where that says exactly the same bytes.
func value(s string) string {
	literal := !strings.Contains(s, "'''") && !strings.HasSuffix(s, "'")
	for _, r := range s {
		if r != '\t' && r != '\n' && (r < 0x20 || r == 0x7f) {
			literal = false
		}
	}
	if literal {
		// The newline after the opening quotes is not part of the value.
		return "'''\n" + s + "'''"
	}
	return basic(s)
}

// basic writes a TOML basic string.
func basic(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
