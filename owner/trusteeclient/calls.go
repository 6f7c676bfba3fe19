package trusteeclient

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// Namespaced is the client of one namespace.
type Namespaced struct {
	c    *Client
	name string
	path string
}

// Namespace selects a namespace; it need not exist yet.
func (c *Client) Namespace(name string) *Namespaced {
	return &Namespaced{c: c, name: name, path: "/namespaces/" + url.PathEscape(name)}
}

// Name gives the namespace's name.
func (n *Namespaced) Name() string { return n.name }

// DeleteNamespace is both steps of deleting a namespace; the answer to the second, with
// confirm, is nil.
func (c *Client) DeleteNamespace(ctx context.Context, name, confirm string, destroySecrets bool) (*trusteeapi.NamespaceDeletion, error) {
	body, err := json.Marshal(trusteeapi.NamespaceDeletion{Confirm: confirm, DestroySecrets: destroySecrets})
	if err != nil {
		return nil, err
	}
	b, err := c.raw(ctx, http.MethodPost, "/namespaces/"+url.PathEscape(name)+"/deletion", nil, "application/json", body)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return decode[trusteeapi.NamespaceDeletion](b)
}

// CreateNamespace makes a namespace. One that exists with the same choices is
// success; with others it is a conflict.
func (c *Client) CreateNamespace(ctx context.Context, ns trusteeapi.Namespace) (*trusteeapi.Namespace, error) {
	return post[trusteeapi.Namespace](ctx, c, "/namespaces", ns)
}

// ListNamespaces lists the namespaces.
func (c *Client) ListNamespaces(ctx context.Context) ([]trusteeapi.Namespace, error) {
	return list[trusteeapi.Namespace](ctx, c, "/namespaces", nil)
}

// Attestation gives one decision in full, by the record id that a guest or the
// wire showed.
func (c *Client) Attestation(ctx context.Context, id string) (*trusteeapi.Record, error) {
	return get[trusteeapi.Record](ctx, c, "/attestations/"+url.PathEscape(id), nil)
}

// Audit gives the audit records with numbers above after, at most limit of
// them, each as its JSON line.
func (c *Client) Audit(ctx context.Context, after uint64, limit int) ([]string, error) {
	return c.AuditOf(ctx, "", after, limit)
}

// AuditOf is Audit of the log with an id; "" is the log of the replica that answers.
func (c *Client) AuditOf(ctx context.Context, log string, after uint64, limit int) ([]string, error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(limit)}}
	if log != "" {
		q.Set("log", log)
	}
	b, err := c.raw(ctx, http.MethodGet, "/audit", q, "", nil)
	if err != nil {
		return nil, err
	}
	s := strings.TrimSuffix(string(b), "\n")
	if s == "" {
		return nil, nil
	}
	return strings.Split(s, "\n"), nil
}

// AddOwnerKey registers a key whose seals the namespace accepts.
func (n *Namespaced) AddOwnerKey(ctx context.Context, name string, pub crypto.PublicKey) (*trusteeapi.OwnerKey, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("owner key: %w", err)
	}
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return post[trusteeapi.OwnerKey](ctx, n.c, n.path+"/owners", trusteeapi.OwnerKey{Name: name, PublicKey: p})
}

// ListOwnerKeys lists the owners' keys.
func (n *Namespaced) ListOwnerKeys(ctx context.Context) ([]trusteeapi.OwnerKey, error) {
	return list[trusteeapi.OwnerKey](ctx, n.c, n.path+"/owners", nil)
}

// DeleteOwnerKey removes a key: its seals release nothing any more.
func (n *Namespaced) DeleteOwnerKey(ctx context.Context, id string) error {
	return n.c.del(ctx, n.path+"/owners/"+url.PathEscape(id))
}

// RegisterSeal registers a seal (compact JWS) and gives its id.
func (n *Namespaced) RegisterSeal(ctx context.Context, jws string) (*trusteeapi.SealInfo, error) {
	return post[trusteeapi.SealInfo](ctx, n.c, n.path+"/seals", trusteeapi.SealInfo{JWS: jws})
}

// ListSeals lists the registered seals.
func (n *Namespaced) ListSeals(ctx context.Context) ([]trusteeapi.SealInfo, error) {
	return list[trusteeapi.SealInfo](ctx, n.c, n.path+"/seals", nil)
}

// Seal gives one registered seal.
func (n *Namespaced) Seal(ctx context.Context, id string) (*trusteeapi.SealInfo, error) {
	return get[trusteeapi.SealInfo](ctx, n.c, n.path+"/seals/"+url.PathEscape(id), nil)
}

// DeleteSeal removes a seal: bindings to it release nothing any more.
func (n *Namespaced) DeleteSeal(ctx context.Context, id string) error {
	return n.c.del(ctx, n.path+"/seals/"+url.PathEscape(id))
}

// PutResource stores a new version of a secret. name is repository/type/tag or a
// kbs:/// URI. Without a binding nobody gets it.
func (n *Namespaced) PutResource(ctx context.Context, name string, secret []byte) (*trusteeapi.Resource, error) {
	p, err := resourcePath(name)
	if err != nil {
		return nil, err
	}
	b, err := n.c.raw(ctx, http.MethodPut, n.path+"/resources/"+p, nil, "application/octet-stream", secret)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Resource](b)
}

// ListResources lists the secrets' metadata and bindings.
func (n *Namespaced) ListResources(ctx context.Context) ([]trusteeapi.Resource, error) {
	return list[trusteeapi.Resource](ctx, n.c, n.path+"/resources", nil)
}

// DeleteResource removes a secret with all its versions and its binding.
func (n *Namespaced) DeleteResource(ctx context.Context, name string) error {
	p, err := resourcePath(name)
	if err != nil {
		return err
	}
	return n.c.del(ctx, n.path+"/resources/"+p)
}

// Bind adds to the seals and initdata digests that a secret may go to. The
// secret itself may come later.
func (n *Namespaced) Bind(ctx context.Context, name string, b trusteeapi.Binding) (*trusteeapi.Binding, error) {
	p, err := resourcePath(name)
	if err != nil {
		return nil, err
	}
	return post[trusteeapi.Binding](ctx, n.c, n.path+"/bindings/"+p, b)
}

// Unbind removes a secret's binding: nobody gets it any more.
func (n *Namespaced) Unbind(ctx context.Context, name string) error {
	p, err := resourcePath(name)
	if err != nil {
		return err
	}
	return n.c.del(ctx, n.path+"/bindings/"+p)
}

// RegisterReferenceValues registers measurements.json under a name; another
// document of that name is replaced.
func (n *Namespaced) RegisterReferenceValues(ctx context.Context, name string, measurements []byte) (*trusteeapi.ReferenceValues, error) {
	b, err := n.c.raw(ctx, http.MethodPut, n.path+"/reference-values/"+url.PathEscape(name), nil, "application/json", measurements)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.ReferenceValues](b)
}

// ListReferenceValues lists the registered bundles.
func (n *Namespaced) ListReferenceValues(ctx context.Context) ([]trusteeapi.ReferenceValues, error) {
	return list[trusteeapi.ReferenceValues](ctx, n.c, n.path+"/reference-values", nil)
}

// DeleteReferenceValues removes a bundle by its name.
func (n *Namespaced) DeleteReferenceValues(ctx context.Context, name string) error {
	return n.c.del(ctx, n.path+"/reference-values/"+url.PathEscape(name))
}

// AddEKRoot registers a root certificate of TPM endorsement keys: in a simulated
// namespace a machine's own, else a manufacturer's.
func (n *Namespaced) AddEKRoot(ctx context.Context, cert *x509.Certificate) (*trusteeapi.EKRoot, error) {
	return n.addEK(ctx, cert, false)
}

// AddEKIntermediate registers an intermediate certificate; it is no trust anchor.
func (n *Namespaced) AddEKIntermediate(ctx context.Context, cert *x509.Certificate) (*trusteeapi.EKRoot, error) {
	return n.addEK(ctx, cert, true)
}

func (n *Namespaced) addEK(ctx context.Context, cert *x509.Certificate, intermediate bool) (*trusteeapi.EKRoot, error) {
	p := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	return post[trusteeapi.EKRoot](ctx, n.c, n.path+"/ek-roots", trusteeapi.EKRoot{Certificate: p, Intermediate: intermediate})
}

// ListEKRoots lists the certificates of endorsement keys.
func (n *Namespaced) ListEKRoots(ctx context.Context) ([]trusteeapi.EKRoot, error) {
	return list[trusteeapi.EKRoot](ctx, n.c, n.path+"/ek-roots", nil)
}

// DeleteEKRoot removes a certificate by the SHA-256 of its key.
func (n *Namespaced) DeleteEKRoot(ctx context.Context, id string) error {
	return n.c.del(ctx, n.path+"/ek-roots/"+url.PathEscape(id))
}

// EnrollAK accepts a TPM attestation key, by its name in hex, without an
// endorsement key; in production namespaces only.
func (n *Namespaced) EnrollAK(ctx context.Context, name, note string) (*trusteeapi.EnrolledAK, error) {
	return post[trusteeapi.EnrolledAK](ctx, n.c, n.path+"/enrolled-aks", trusteeapi.EnrolledAK{Name: name, Note: note})
}

// ListEnrolledAKs lists the enrolled attestation keys.
func (n *Namespaced) ListEnrolledAKs(ctx context.Context) ([]trusteeapi.EnrolledAK, error) {
	return list[trusteeapi.EnrolledAK](ctx, n.c, n.path+"/enrolled-aks", nil)
}

// DeleteEnrolledAK withdraws an attestation key.
func (n *Namespaced) DeleteEnrolledAK(ctx context.Context, name string) error {
	return n.c.del(ctx, n.path+"/enrolled-aks/"+url.PathEscape(name))
}

// AttestationFilter narrows a list of decisions; zero members do not.
type AttestationFilter struct {
	Initdata string // "<algorithm>:<hex>"
	Outcome  string
	Kind     string
	Limit    int
}

// Attestations lists decisions, the newest first.
func (n *Namespaced) Attestations(ctx context.Context, f AttestationFilter) ([]trusteeapi.Record, error) {
	q := url.Values{}
	for k, v := range map[string]string{"initdata": f.Initdata, "outcome": f.Outcome, "kind": f.Kind} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return list[trusteeapi.Record](ctx, n.c, n.path+"/attestations", q)
}

// KBSURL gives the base URL that guests of the namespace are told, for a host
// name under which they reach the trustee ("" keeps the client's).
func (n *Namespaced) KBSURL(host string) string {
	u := *n.c.base
	if host != "" {
		u.Host = host
		if p := n.c.base.Port(); p != "" {
			u.Host += ":" + p
		}
	}
	if n.name != trusteeapi.DefaultNamespace {
		u.Path = "/ns/" + n.name
	}
	return u.String()
}

func list[T any](ctx context.Context, c *Client, path string, q url.Values) ([]T, error) {
	v, err := get[[]T](ctx, c, path, q)
	if err != nil {
		return nil, err
	}
	return *v, nil
}

func resourcePath(name string) (string, error) {
	if !strings.Contains(name, "://") {
		name = "kbs:///" + strings.TrimPrefix(name, "/")
	}
	u, err := resource.Parse(name)
	if err != nil {
		return "", err
	}
	if u.Plugin != resource.PluginResource || u.Query != "" {
		return "", fmt.Errorf("resource %.80q: not a plain resource", name)
	}
	return u.Name(), nil
}
