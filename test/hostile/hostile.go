// Package hostile plays a hostile host against a running guest agent: it speaks
// to the agent's channel directly, past every tool of ours, and expects each of
// its requests to be denied for the right reason (api/podpolicy/SPEC.md).
//
// Use it in three steps: Fresh on a guest that has answered nothing yet, Start
// to run the pod as its owner meant it, Running on the running pod. No attack
// changes the guest if it is denied, so that the pod must still start and go on
// afterwards.
//
// Trust zone: tests only.
package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/owner/spec"
)

// Target is the guest under attack.
type Target struct {
	Agent     agentpb.AgentServiceService
	Plan      *spec.Plan
	SandboxID string
	// IDs are the ids of the pod's containers by name, once they exist.
	IDs map[string]string
	// NoNetwork leaves out the genuine network requests, for an agent in
	// namespaces, which has no interface of the plan's.
	NoNetwork bool
	// CallTimeout bounds each call but those that pull images.
	CallTimeout time.Duration
}

// Dial connects to the agent behind a Unix socket (nodeapi.AgentSocket).
func Dial(ctx context.Context, socket string, plan *spec.Plan, sandboxID string) (*Target, func() error, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the guest agent: %w", err)
	}
	c := ttrpc.NewClient(conn)
	t := &Target{Agent: agentpb.NewAgentServiceClient(c), Plan: plan, SandboxID: sandboxID, IDs: map[string]string{}, CallTimeout: 30 * time.Second}
	return t, c.Close, nil
}

// Attack is one thing that a hostile host does.
type Attack struct {
	Name   string
	Reason denial.Reason // the denial that it must meet
	Claim  string        // what the denial's claim must contain
	Do     func(ctx context.Context, t *Target) error
}

// NotApplicable stands for a denial where the pod has nothing to attack.
const NotApplicable denial.Reason = "not-applicable"

// Result is what became of an attack.
type Result struct {
	Attack Attack
	Denial *denial.Denial // nil: not denied
	Err    error          // nil: it was denied as it must be
}

// String gives one line for people.
func (r Result) String() string {
	if r.Err != nil {
		return fmt.Sprintf("FAIL %s: %v", r.Attack.Name, r.Err)
	}
	return fmt.Sprintf("denied %s: %s: %s", r.Attack.Name, r.Denial.Reason, r.Denial.Claim)
}

// run plays attacks one after the other.
func (t *Target) run(ctx context.Context, attacks []Attack) []Result {
	var out []Result
	for _, a := range attacks {
		cctx, cancel := context.WithTimeout(ctx, t.CallTimeout)
		err := a.Do(cctx, t)
		cancel()
		out = append(out, judge(a, err))
	}
	return out
}

func judge(a Attack, err error) Result {
	r := Result{Attack: a}
	if errors.Is(err, errNothingToAttack) {
		return Result{Attack: a, Denial: &denial.Denial{Reason: NotApplicable, Claim: "this pod has nothing of the kind"}}
	}
	d, ok := Denial(err)
	switch {
	case err == nil:
		r.Err = errors.New("the guest did it")
	case !ok:
		r.Err = fmt.Errorf("no denial but %w", err)
	case d.Reason != a.Reason || !strings.Contains(d.Claim, a.Claim):
		r.Denial, r.Err = d, fmt.Errorf("denied for %s about %q, want %s about %q", d.Reason, d.Claim, a.Reason, a.Claim)
	case d.Measured != "" || d.Expected != "":
		r.Denial, r.Err = d, errors.New("the denial tells the host measured or expected values")
	default:
		r.Denial = d
	}
	return r
}

// Denial gives the typed refusal in an agent's answer.
func Denial(err error) (*denial.Denial, bool) {
	if err == nil {
		return nil, false
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.PermissionDenied {
		return nil, false
	}
	i := strings.IndexByte(st.Message(), '{')
	if i < 0 {
		return nil, false
	}
	d := new(denial.Denial)
	if json.Unmarshal([]byte(st.Message()[i:]), d) != nil || d.Reason == "" {
		return nil, false
	}
	return d, true
}

// errNothingToAttack says that the pod has nothing of the kind (no files, no
// init containers).
var errNothingToAttack = errors.New("nothing to attack")

// Failures gives what did not go as it must.
func Failures(rs []Result) []Result {
	var out []Result
	for _, r := range rs {
		if r.Err != nil {
			out = append(out, r)
		}
	}
	return out
}
