package run

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// registerEK lets the trustee accept this machine's software TPMs in the
// simulated namespace.
func registerEK(ctx context.Context, ns *trusteeclient.Namespaced, ready nodeapi.Event) error {
	if len(ready.EKRoot) == 0 {
		return nil
	}
	cert, err := x509.ParseCertificate(ready.EKRoot)
	if err != nil {
		return fmt.Errorf("the launcher's simulated TPM root: %w", err)
	}
	if _, err := ns.AddEKRoot(ctx, cert); err != nil {
		return fmt.Errorf("registering the simulated TPM root with the trustee: %w", err)
	}
	return nil
}

// explain turns the guest's public denial into the whole story: the trustee
// tells the owner what it measured and what it expected; the guest and the host
// may not know.
func (r *runner) explain(c *trusteeclient.Client, l *launched, err error) error {
	d, ok := agentDenial(err)
	if !ok {
		return classify(err)
	}
	out := &Denied{Denial: d}
	if d.RecordID == "" {
		return out
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rec, rerr := c.Attestation(ctx, d.RecordID)
	if rerr != nil || rec.Denial == nil {
		return out
	}
	full := *rec.Denial
	full.RecordID = d.RecordID
	out.Denial = &full
	out.Launch = l.explain(ctx, c, rec)
	return out
}

// Denied is a refusal by the guest's policy or by the trustee, explained.
type Denied struct {
	Denial *denial.Denial
	// Launch says which input of the launch is not the expected one; nil where it
	// is none, or nothing is known.
	Launch *measure.Explanation
}

func (e *Denied) Error() string {
	d := e.Denial
	s := fmt.Sprintf("denied: %s\n  refused by   %s", denial.Printable(string(d.Reason)), denial.Printable(d.Component))
	for _, f := range []struct{ name, value string }{
		{"because of", d.Claim}, {"measured", d.Measured}, {"expected", d.Expected}, {"according to", d.Source}, {"detail", d.Detail}, {"record", d.RecordID},
	} {
		if f.value != "" {
			s += fmt.Sprintf("\n  %-12s %s", f.name, denial.Printable(f.value))
		}
	}
	if e.Launch != nil {
		s += "\nwhich input of the launch that is, as coffer has computed:"
		for _, f := range e.Launch.Facts() {
			s += fmt.Sprintf("\n  %-12s %s", f.Name, denial.Printable(f.Value))
		}
	}
	return s
}

// Unwrap gives the typed denial.
func (e *Denied) Unwrap() error { return e.Denial }
