package aael

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of an event.
const (
	maxWord    = 256
	MaxContent = 64 << 10
)

// Event is one line of the log.
type Event struct {
	Domain    string // who says it: "github.com/confidential-containers"
	Operation string // "PullImage"
	Content   string // free text or JSON on one line; may be empty
}

// Text gives the published text, `domain operation content`, or an error if a
// reader could take it apart in another way.
func (e Event) Text() (string, error) {
	if err := word("domain", e.Domain); err != nil {
		return "", err
	}
	if err := word("operation", e.Operation); err != nil {
		return "", err
	}
	switch {
	case len(e.Content) > MaxContent:
		return "", fmt.Errorf("content: %d bytes, at most %d", len(e.Content), MaxContent)
	case !utf8.ValidString(e.Content):
		return "", errors.New("content: not UTF-8")
	case strings.ContainsFunc(e.Content, func(r rune) bool { return r != '\t' && control(r) }):
		return "", errors.New("content: a line break or control character")
	}
	return e.Domain + " " + e.Operation + " " + e.Content, nil
}

// word checks a part that a single space ends.
func word(name, s string) error {
	switch {
	case s == "" || len(s) > maxWord:
		return fmt.Errorf("%s: %d bytes, at least 1 and at most %d", name, len(s), maxWord)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s: not UTF-8", name)
	case strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || control(r) }):
		return fmt.Errorf("%s: a space, line break or control character", name)
	}
	return nil
}

// control tells characters that some reader takes for the end of a line.
func control(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029
}
