package shim

import (
	"fmt"
	"regexp"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/denial"
)

// refusal gives the typed refusal in a guest agent's answer; nil if there is none.
func refusal(st *status.Status) *denial.Denial {
	if st.Code() != codes.PermissionDenied {
		return nil
	}
	d, _ := denial.FromMessage(st.Message())
	return d
}

// ofGuest are the components that refuse inside the guest. What any other refuses is
// in the trustee's records.
var ofGuest = []string{"pod-policy", "guest-agent", "guest-keyholder"}

// hints are for who reads a pod's events: often not the owner, who alone may see more.
var hints = map[denial.Reason]string{
	"args-mismatch":      "the pod was changed after it was sealed: seal it again",
	"env-mismatch":       "the pod was changed after it was sealed: seal it again",
	"image-mismatch":     "the pod was changed after it was sealed: seal it again",
	"secret-unbound":     "no key or secret of this name is bound to the pod as it is sealed: its owner does that with coffer secret put or coffer secret bind, --for its seal",
	"exec-denied":        "the owner has not sealed this command into the pod",
	"simulated-evidence": "the trustee's namespace takes no simulated TEE",
}

var recordID = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

func refusalText(d *denial.Denial) string {
	who := "the trustee (" + d.Component + ")"
	if slices.Contains(ofGuest, d.Component) {
		who = "the guest (" + d.Component + ")"
	}
	s := fmt.Sprintf("refused by %s: %s", who, d.Reason)
	if d.Claim != "" {
		s += ": " + d.Claim
	}
	if h := hints[d.Reason]; h != "" {
		s += "; " + h
	}
	// People copy it into a shell, so it is what the trustee makes, or not shown.
	if recordID.MatchString(d.RecordID) && !slices.Contains(ofGuest, d.Component) {
		s += "; in full, for the owner: coffer explain " + d.RecordID
	}
	const most = 1000 // of an event's 1,024
	return denial.Printable(s[:min(len(s), most)])
}
