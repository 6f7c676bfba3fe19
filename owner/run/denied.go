package run

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/cofferproject/coffer/api/denial"
)

// Exit codes that travel over the control socket (docs/exit-codes.md).
const (
	codeDenied  = 123
	codeMissing = 127
)

// CommandError says that a command is not in the container's image.
type CommandError struct{ Err error }

func (e *CommandError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// agentDenial gives the typed refusal in a guest agent's answer, if it is one.
// The guest sends the public form only: a reason, the claim's name, a record.
func agentDenial(err error) (*denial.Denial, bool) {
	var e *guestError
	if !errors.As(err, &e) || e.st.Code() != codes.PermissionDenied {
		return nil, false
	}
	if d, ok := denial.FromMessage(e.st.Message()); ok {
		return d, true
	}
	return &denial.Denial{Reason: "denied", Component: "guest", Detail: e.st.Message()}, true
}

// classify gives an error of the guest agent the type that says whose fault it
// is. Calls say NotFound where a command is missing and FailedPrecondition where
// an image cannot be had.
func classify(err error) error {
	var e *guestError
	if !errors.As(err, &e) {
		return err
	}
	switch e.st.Code() {
	case codes.PermissionDenied:
		if d, ok := agentDenial(err); ok {
			return &Denied{Denial: d}
		}
	case codes.NotFound:
		return &CommandError{err}
	case codes.FailedPrecondition:
		return &ImageError{Err: err}
	}
	return err
}

// errCode is the exit code that goes over the control socket; 0 if err says none.
func errCode(err error) int {
	var (
		deny    *Denied
		missing *CommandError
	)
	switch {
	case errors.As(err, &deny):
		return codeDenied
	case errors.As(err, &missing):
		return codeMissing
	}
	return 0
}
