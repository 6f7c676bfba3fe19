package eventlog

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// configFlags gives the text of EV_PLATFORM_CONFIG_FLAGS as it is published: all
// of the data without control characters, the length's 0x10 in td-shim's blocks
// as a space; what is no text is empty.
func configFlags(b []byte) string {
	if !utf8.Valid(b) {
		return ""
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == 0x10:
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, string(b))
}
