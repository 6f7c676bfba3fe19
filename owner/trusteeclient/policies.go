package trusteeclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

func versionQuery(version uint64) url.Values {
	if version == 0 {
		return nil
	}
	return url.Values{"version": {strconv.FormatUint(version, 10)}}
}

// PolicyVersion gives a version of a policy with its text; 0: what is in force.
func (n *Namespaced) PolicyVersion(ctx context.Context, name string, version uint64) (*trusteeapi.Policy, error) {
	return get[trusteeapi.Policy](ctx, n.c, n.path+"/policies/"+url.PathEscape(name), versionQuery(version))
}

// PolicyVersions lists the versions of a policy, the newest first.
func (n *Namespaced) PolicyVersions(ctx context.Context, name string) ([]trusteeapi.Policy, error) {
	return list[trusteeapi.Policy](ctx, n.c, n.path+"/policies/"+url.PathEscape(name)+"/versions", nil)
}

// SetAppraisalPolicy chooses the policies <id>_<class> to judge evidence.
func (n *Namespaced) SetAppraisalPolicy(ctx context.Context, id string) (*trusteeapi.Namespace, error) {
	b, err := n.c.send(ctx, http.MethodPut, n.path+"/appraisal-policy", trusteeapi.AppraisalPolicy{ID: id})
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Namespace](b)
}

// TestPolicy asks what a policy would say of recorded attestations.
func (n *Namespaced) TestPolicy(ctx context.Context, t trusteeapi.PolicyTest) ([]trusteeapi.PolicyVerdict, error) {
	out, err := post[[]trusteeapi.PolicyVerdict](ctx, n.c, n.path+"/policy-tests", t)
	if err != nil {
		return nil, err
	}
	return *out, nil
}

func (n *Namespaced) resourcePolicy(name string) string {
	return n.path + "/resource-policies/" + url.PathEscape(name)
}

// SetResourcePolicy registers a resource policy.
func (n *Namespaced) SetResourcePolicy(ctx context.Context, p trusteeapi.ResourcePolicy) (*trusteeapi.ResourcePolicy, error) {
	b, err := n.c.send(ctx, http.MethodPut, n.resourcePolicy(p.Name), p)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.ResourcePolicy](b)
}

// ResourcePolicy gives a version of a resource policy with its text; 0: what is in
// force.
func (n *Namespaced) ResourcePolicy(ctx context.Context, name string, version uint64) (*trusteeapi.ResourcePolicy, error) {
	return get[trusteeapi.ResourcePolicy](ctx, n.c, n.resourcePolicy(name), versionQuery(version))
}

// ResourcePolicyVersions lists the versions of a resource policy, the newest first.
func (n *Namespaced) ResourcePolicyVersions(ctx context.Context, name string) ([]trusteeapi.ResourcePolicy, error) {
	return list[trusteeapi.ResourcePolicy](ctx, n.c, n.resourcePolicy(name)+"/versions", nil)
}

// ListResourcePolicies lists the resource policies in force.
func (n *Namespaced) ListResourcePolicies(ctx context.Context) ([]trusteeapi.ResourcePolicy, error) {
	return list[trusteeapi.ResourcePolicy](ctx, n.c, n.path+"/resource-policies", nil)
}

// DeleteResourcePolicy takes a resource policy out of force.
func (n *Namespaced) DeleteResourcePolicy(ctx context.Context, name string) error {
	return n.c.del(ctx, n.resourcePolicy(name))
}

// Client gives the client of the whole trustee.
func (n *Namespaced) Client() *Client { return n.c }

// AuditCheckpoint gives a signed checkpoint of the audit log as it is now.
func (c *Client) AuditCheckpoint(ctx context.Context) (*auditlog.Signed, error) {
	return get[auditlog.Signed](ctx, c, "/audit/checkpoint", nil)
}

// AuditCheckpointOf gives what was signed last about the log with an id.
func (c *Client) AuditCheckpointOf(ctx context.Context, log string) (*auditlog.Signed, error) {
	return get[auditlog.Signed](ctx, c, "/audit/checkpoint", url.Values{"log": {log}})
}

// AuditLogs lists the audit logs that the replica which answers can read.
func (c *Client) AuditLogs(ctx context.Context) ([]trusteeapi.AuditLog, error) {
	return list[trusteeapi.AuditLog](ctx, c, "/audit/logs", nil)
}

// SignAuditLog has the replica that answers sign where another one's log ends.
func (c *Client) SignAuditLog(ctx context.Context, log string) (*auditlog.Signed, error) {
	return post[auditlog.Signed](ctx, c, "/audit/logs/"+url.PathEscape(log)+"/checkpoint", struct{}{})
}

// RemoveAuditLog takes a finished log out of the trustee's database. sha256 is the
// auditlog.Digest of what was exported, in hex.
func (c *Client) RemoveAuditLog(ctx context.Context, log, sha256 string) (*auditlog.Removal, error) {
	return post[auditlog.Removal](ctx, c, "/audit/logs/"+url.PathEscape(log)+"/removal", trusteeapi.AuditRemoval{SHA256: sha256})
}
