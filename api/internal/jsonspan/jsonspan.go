// Package jsonspan finds where a JSON value ends, so that a large value which
// another decoder will read anyway is not also read by encoding/json, three times
// over and ten times slower.
//
// Invariants: what End accepts is exactly one value that encoding/json takes as
// well (RFC 8259; a fuzz target compares the two); the other way round only
// nesting is bounded tighter. Nothing is decoded, copied or allocated.
//
// Trust zone: a contract's decoder; the input is hostile.
package jsonspan

// maxDepth bounds nesting. Deeper values are for encoding/json, which has a bound
// of its own.
const maxDepth = 64

// End gives the index after the value that starts at b[i]; false: what is there
// is no JSON value, has no end, or nests too deeply. b[i] must not be a blank.
func End(b []byte, i int) (int, bool) { return end(b, i, 0) }

// Blank gives the index of the first byte from i on that is no blank.
func Blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

func end(b []byte, i, depth int) (int, bool) {
	if i >= len(b) || depth > maxDepth {
		return 0, false
	}
	switch c := b[i]; {
	case c == '{':
		return object(b, i, depth)
	case c == '[':
		return array(b, i, depth)
	case c == '"':
		return String(b, i)
	case c == '-' || c >= '0' && c <= '9':
		return number(b, i)
	case c == 't':
		return literal(b, i, "true")
	case c == 'f':
		return literal(b, i, "false")
	case c == 'n':
		return literal(b, i, "null")
	}
	return 0, false
}

func literal(b []byte, i int, word string) (int, bool) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return 0, false
	}
	return i + len(word), true
}

// String gives the index after the string that starts at b[i].
func String(b []byte, i int) (int, bool) {
	if i >= len(b) || b[i] != '"' {
		return 0, false
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, true
		case c < 0x20:
			return 0, false
		case c == '\\':
			if i++; i >= len(b) {
				return 0, false
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if len(b)-i < 5 || !hex(b[i+1]) || !hex(b[i+2]) || !hex(b[i+3]) || !hex(b[i+4]) {
					return 0, false
				}
				i += 4
			default:
				return 0, false
			}
		}
	}
	return 0, false
}

func hex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func digits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

// number takes RFC 8259's number: no leading zero, no bare point or exponent.
func number(b []byte, i int) (int, bool) {
	if b[i] == '-' {
		i++
	}
	j := digits(b, i)
	if j == i || b[i] == '0' && j > i+1 {
		return 0, false
	}
	if i = j; i < len(b) && b[i] == '.' {
		if j = digits(b, i+1); j == i+1 {
			return 0, false
		}
		i = j
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if j = digits(b, i); j == i {
			return 0, false
		}
		i = j
	}
	return i, true
}

func array(b []byte, i, depth int) (int, bool) {
	if i = Blank(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1, true
	}
	for {
		i = Blank(b, small(b, i))
		var ok bool
		if i, ok = end(b, i, depth+1); !ok {
			return 0, false
		}
		switch i = Blank(b, i); {
		case i >= len(b):
			return 0, false
		case b[i] == ']':
			return i + 1, true
		case b[i] != ',':
			return 0, false
		}
		i = Blank(b, i+1)
	}
}

// small skips integers of at most three digits that a comma follows at once: bytes as
// numbers, which evidence mostly consists of.
func small(b []byte, i int) int {
	for i+3 < len(b) && b[i]-'0' <= 9 {
		switch {
		case b[i+1] == ',':
			i += 2
		case b[i] == '0' || b[i+1]-'0' > 9:
			return i
		case b[i+2] == ',':
			i += 3
		case b[i+2]-'0' <= 9 && b[i+3] == ',':
			i += 4
		default:
			return i
		}
	}
	return i
}

func object(b []byte, i, depth int) (int, bool) {
	return Members(b, i, func(_, at int) (int, bool) { return end(b, at, depth+1) })
}

// Members walks the object that starts at b[i] and gives the index after it. For
// each member value is called with the index of its name's opening quote and of
// its value, and gives the index after the value.
func Members(b []byte, i int, value func(name, at int) (int, bool)) (int, bool) {
	if i >= len(b) || b[i] != '{' {
		return 0, false
	}
	if i = Blank(b, i+1); i < len(b) && b[i] == '}' {
		return i + 1, true
	}
	for {
		name := i
		var ok bool
		if i, ok = String(b, i); !ok {
			return 0, false
		}
		if i = Blank(b, i); i >= len(b) || b[i] != ':' {
			return 0, false
		}
		if i, ok = value(name, Blank(b, i+1)); !ok {
			return 0, false
		}
		switch i = Blank(b, i); {
		case i >= len(b):
			return 0, false
		case b[i] == '}':
			return i + 1, true
		case b[i] != ',':
			return 0, false
		}
		i = Blank(b, i+1)
	}
}
