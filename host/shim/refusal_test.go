package shim

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestRefusalText(t *testing.T) {
	for name, c := range map[string]struct {
		code      codes.Code
		msg, want string
	}{
		"the trustee's": {
			codes.PermissionDenied, `CreateContainerRequest is blocked by policy: {"reason":"secret-unbound","component":"kbs","claim":"initdata digest","record_id":"01a2"}`,
			"refused by the trustee (kbs): secret-unbound: initdata digest; no key or secret of this name is bound to the pod as it is sealed: its owner does that with coffer secret put or coffer secret bind, --for its seal; in full, for the owner: coffer explain 01a2",
		},
		"the guest's": {
			codes.PermissionDenied, `ExecProcessRequest is blocked by policy: {"reason":"exec-denied","component":"pod-policy","claim":"containers[c].exec","record_id":"7"}`,
			"refused by the guest (pod-policy): exec-denied: containers[c].exec; the owner has not sealed this command into the pod",
		},
		"without a hint": {
			codes.PermissionDenied, `x {"reason":"tpm-event-unexplained","component":"tpm-verifier","claim":"PCR 9","record_id":"ab"}`,
			"refused by the trustee (tpm-verifier): tpm-event-unexplained: PCR 9; in full, for the owner: coffer explain ab",
		},
		"a record for a shell": {
			codes.PermissionDenied, `{"reason":"a","component":"kbs","record_id":"1; reboot"}`,
			"refused by the trustee (kbs): a",
		},
		"no refusal":           {codes.NotFound, `no {"reason":"x"}`, `no {"reason":"x"}`},
		"no JSON":              {codes.PermissionDenied, "no", "no"},
		"broken":               {codes.PermissionDenied, `no {"reason":`, `no {"reason":`},
		"no reason":            {codes.PermissionDenied, `no {"component":"kbs"}`, `no {"component":"kbs"}`},
		"breaks no line":       {codes.PermissionDenied, `{"reason":"a","component":"kbs","claim":"x\ny\u001b[2J"}`, "refused by the trustee (kbs): a: x y?[2J"},
		"an event has room":    {codes.PermissionDenied, `{"reason":"a","component":"kbs","claim":"` + strings.Repeat("x", 5000) + `"}`, ""},
		"of a guest gone wild": {codes.PermissionDenied, `{"reason":"` + strings.Repeat("x", 5000) + `"}`, ""},
	} {
		got := (&guestError{status.New(c.code, c.msg)}).Error()
		if c.want != "" && got != c.want || c.want == "" && len(got) > 1024 {
			t.Errorf("%s: %q", name, got)
		}
	}
}
