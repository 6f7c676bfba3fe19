package denial

import (
	"strings"
	"testing"
)

// Evidence is its sender's text, and a refusal repeats parts of it on a terminal.
func TestErrorIsOnePrintableLine(t *testing.T) {
	d := &Denial{
		Reason: "simulated-evidence", Component: "snp-verifier", Claim: "simulation",
		Measured: "x\x1b[2J\x1b[Hverdict  affirming\u202e", Expected: "none", Detail: "first\nverdict\taffirming\u0085",
	}
	s := d.Error()
	if strings.ContainsAny(s, "\x1b\n\r\t\u202e\u0085") {
		t.Errorf("%q", s)
	}
	if !strings.Contains(s, "measured x?[2J?[Hverdict  affirming?, expected none") || !strings.HasSuffix(s, "first verdict affirming?") {
		t.Errorf("%q", s)
	}
	if got := Printable("plain, \u00e4\u4e16"); got != "plain, \u00e4\u4e16" {
		t.Errorf("%q", got)
	}
}
