package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

type publicError struct{ error }

func (publicError) Public() string { return "what the host may read" }

// The host gets a failed pull's public words, the console the rest, and that only
// in a debug guest.
func TestPullErrorsForTheHost(t *testing.T) {
	const secret = "CANARY-7f3a"
	for _, debug := range []bool{false, true} {
		var console bytes.Buffer
		s := New(slog.New(slog.NewTextHandler(&console, nil)))
		s.opt.ShowDenials = debug
		if got := s.public(fmt.Errorf("image: %w", publicError{errors.New(secret)})); got != "what the host may read" {
			t.Errorf("%q", got)
		}
		if got := s.public(errors.New(secret)); got != "pulling the image failed" {
			t.Errorf("of no kind: %q", got)
		}
		if strings.Contains(console.String(), secret) != debug {
			t.Errorf("debug %t: the console says %q", debug, console.String())
		}
	}
}
