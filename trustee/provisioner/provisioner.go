// Package provisioner makes keys for the disks of confidential VMs before they boot:
// the published provisioner plugin (shared facts: trustee section 3.7).
//
// Invariants: a key is a secret like any other, encrypted in the store and read through
// the release gate alone, by guests that its binding names; a VM's key is made once, and
// asking again gives the same answer; what an administrator gets is never the key.
//
// Trust zone: trustee.
package provisioner

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // of version 5 UUIDs, which are names and protect nothing
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	// Name of the plugin in paths.
	Name = "provisioner"
	// InitdataKey is where a guest's initdata names its key.
	InitdataKey = "trustee.kbs.resource"
	// MaxBody of a request, in bytes.
	MaxBody = 4 << 10
	// DefaultKeyLength is the published one, in characters.
	DefaultKeyLength = 32

	minKeyLength = 22 // 130 bits
	maxKeyLength = 512
	maxName      = 253

	defaultNamespace = "default"
	resourceRoot     = "root"
)

// space is the namespace of the UUIDs: the published one.
const space = "feab5599685452bc95f00241c03e620a"

// Secrets keeps secrets: the release gate.
type Secrets interface {
	Put(ctx context.Context, ns, name string, secret []byte, o release.PutOptions) (*trusteeapi.Resource, error)
	Delete(ctx context.Context, ns, name string) error
	MayChange(ctx context.Context, ns, name, method, actor, peer string) error
}

// Plugin makes keys.
type Plugin struct {
	secrets Secrets
	length  int
}

// New makes a Plugin whose keys have so many characters.
func New(s Secrets, length int) (*Plugin, error) {
	if s == nil {
		return nil, errors.New("provisioner: no secrets")
	}
	if length < minKeyLength || length > maxKeyLength {
		return nil, fmt.Errorf("provisioner: keys of %d characters, not %d to %d", length, minKeyLength, maxKeyLength)
	}
	return &Plugin{s, length}, nil
}

// Caller is the administrator who asks.
type Caller struct{ Namespace, Actor, Peer string }

type request struct {
	VM        string `json:"vm_name"`
	Namespace string `json:"namespace"`
}

type answer struct {
	UUID string `json:"uuid"`
	Path string `json:"resource_path"`
}

// Provision makes the key of a VM, unless it is there. What is wrong with a request is
// tenant.ErrInvalid.
func (p *Plugin) Provision(ctx context.Context, by Caller, body []byte) ([]byte, error) {
	r, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tenant.ErrInvalid, err)
	}
	id := identifier(r.Namespace + "/" + r.VM)
	name := stored(id)
	if err := p.secrets.MayChange(ctx, by.Namespace, name, trusteeapi.MethodPut, by.Actor, by.Peer); err != nil {
		return nil, err
	}
	doc := document(key(p.length))
	defer clear(doc)
	none := uint64(0)
	_, err = p.secrets.Put(ctx, by.Namespace, name, doc, release.PutOptions{Actor: by.Actor, IfVersion: &none})
	if err != nil && !errors.Is(err, tenant.ErrConflict) { // then it is there
		return nil, fmt.Errorf("keeping the key of VM %s: %w", id, err)
	}
	return json.Marshal(answer{id, path(id)})
}

// Deprovision deletes the key of a VM with its binding. One that is not there is no
// error, as published.
func (p *Plugin) Deprovision(ctx context.Context, by Caller, id string) ([]byte, error) {
	if !uuid.MatchString(id) {
		return nil, fmt.Errorf("%w: %.60q is no UUID", tenant.ErrInvalid, id)
	}
	name := stored(id)
	if err := p.secrets.MayChange(ctx, by.Namespace, name, trusteeapi.MethodDelete, by.Actor, by.Peer); err != nil {
		return nil, err
	}
	if err := p.secrets.Delete(ctx, by.Namespace, name); err != nil && !errors.Is(err, tenant.ErrNotFound) {
		return nil, fmt.Errorf("deleting the key of VM %s: %w", id, err)
	}
	return json.Marshal(map[string]string{"status": "deleted"})
}

// Resource gives the secret that lies at a path of the plugin.
func Resource(parts []string) (string, error) {
	if len(parts) != 3 || parts[0] != defaultNamespace || !uuid.MatchString(parts[1]) || parts[2] != resourceRoot {
		return "", errors.New("no such path: the key of a VM is at default/<uuid>/root")
	}
	return stored(parts[1]), nil
}

func path(id string) string { return strings.Join([]string{defaultNamespace, id, resourceRoot}, "/") }

// stored is the name of the secret: apart from those that users name.
func stored(id string) string { return strings.Join([]string{Name, id, resourceRoot}, "/") }

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func decode(body []byte) (*request, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("more than %d bytes", MaxBody)
	}
	r := &request{Namespace: defaultNamespace}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("request: data after the document")
	}
	for what, s := range map[string]string{"vm_name": r.VM, "namespace": r.Namespace} {
		// A slash would make one name of two.
		if s == "" || len(s) > maxName || strings.Contains(s, "/") {
			return nil, fmt.Errorf("%s: %.60q is not a name of 1 to %d bytes without a slash", what, s, maxName)
		}
	}
	return r, nil
}

// identifier is the version 5 UUID of a VM (RFC 9562), the same each time.
func identifier(vm string) string {
	ns, err := hex.DecodeString(space)
	if err != nil {
		panic(err) // a constant
	}
	sum := sha1.Sum(append(ns, vm...)) //nolint:gosec // see the import
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// key is of letters and digits, each as likely as any other.
func key(length int) []byte {
	out := make([]byte, 0, length)
	var random [64]byte
	defer clear(random[:])
	for {
		rand.Read(random[:])
		for _, b := range random {
			// 6 bits make an index, or are thrown away.
			if i := int(b & 0x3f); i < len(alphabet) {
				if out = append(out, alphabet[i]); len(out) == length {
					return out
				}
			}
		}
	}
}

// document is the published form of confidential data for a guest.
func document(key []byte) []byte {
	defer clear(key)
	return fmt.Appendf(nil, "version = \"0.1.0\"\n\n[data]\n\"io.cryptsetup.key.text.root\" = \"%s\"\n", key)
}
