// Package denial gives refusals a type: a stable reason id that machines and
// documents can name, and facts for people. docs/denials.md lists every id;
// a test compares the list with the code.
//
// What crosses to an untrusted party is Public: reason, claim and record id,
// never measured or expected values (design.md section 3, step 6).
package denial

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Reason is a stable identifier such as "initdata-mismatch". Lower case,
// words joined by hyphens, never reused for another meaning.
type Reason string

// Denial is a refusal. It implements error.
type Denial struct {
	Reason    Reason `json:"reason"`
	Component string `json:"component"`          // who refused: "pod-policy", "tpm-verifier", "kbs", ...
	Claim     string `json:"claim,omitempty"`    // what was judged: "PCR 9: Linux initrd", "containers[0].env[LD_PRELOAD]"
	Measured  string `json:"measured,omitempty"` // what was found; never a secret
	Expected  string `json:"expected,omitempty"` // what would have been accepted
	Source    string `json:"source,omitempty"`   // where the expectation comes from
	RecordID  string `json:"record_id,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

// Printable gives text of an untrusted party in a form that breaks no line and
// moves no cursor: line breaks and tabs become blanks, other control and format
// characters question marks. Whoever shows a fact of a denial or of evidence to
// people shows it like this; JSON carries it as it is.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '?'
	}, s)
}

// Error gives the whole refusal in one line.
func (d *Denial) Error() string { return Printable(d.line()) }

func (d *Denial) line() string {
	s := fmt.Sprintf("denied by %s: %s", d.Component, d.Reason)
	if d.Claim != "" {
		s += ": " + d.Claim
	}
	if d.Measured != "" {
		s += fmt.Sprintf(": measured %s", d.Measured)
	}
	if d.Expected != "" {
		s += fmt.Sprintf(", expected %s", d.Expected)
	}
	if d.Source != "" {
		s += " (from " + d.Source + ")"
	}
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	if d.RecordID != "" {
		s += " [record " + d.RecordID + "]"
	}
	return s
}

// Public gives what an untrusted peer may see.
func (d *Denial) Public() *Denial {
	return &Denial{Reason: d.Reason, Component: d.Component, Claim: d.Claim, RecordID: d.RecordID}
}

// FromMessage gives the refusal whose JSON stands in a text, behind a few words: so the
// guest agent's answers carry their public form. The members are the sender's words.
func FromMessage(msg string) (*Denial, bool) {
	i := strings.IndexByte(msg, '{')
	if i < 0 {
		return nil, false
	}
	d := new(Denial)
	if err := json.NewDecoder(strings.NewReader(msg[i:])).Decode(d); err != nil || d.Reason == "" {
		return nil, false
	}
	return d, true
}

// As gives the first Denial in err's chain.
func As(err error) (*Denial, bool) {
	var d *Denial
	ok := errors.As(err, &d)
	return d, ok
}
