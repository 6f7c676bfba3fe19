package run

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/denial"
)

var _ = ttrpc.ErrClosed

// agentDenial gives the typed refusal in a guest agent's answer, if it is one.
// The guest sends the public form only: a reason, the claim's name, a record.
func agentDenial(err error) (*denial.Denial, bool) {
	for e := err; e != nil; e = errors.Unwrap(e) {
		st, ok := status.FromError(e)
		if !ok || st.Code() != codes.PermissionDenied {
			continue
		}
		msg := st.Message()
		if i := strings.IndexByte(msg, '{'); i >= 0 {
			var d denial.Denial
			dec := json.NewDecoder(strings.NewReader(msg[i:]))
			if dec.Decode(&d) == nil && d.Reason != "" {
				return &d, true
			}
		}
		return &denial.Denial{Reason: "denied", Component: "guest", Detail: msg}, true
	}
	return nil, false
}

// errCode is the exit code that goes over the control socket; 0 if err says none.
func errCode(err error) int {
	if _, ok := agentDenial(err); ok {
		return 123
	}
	return 0
}
