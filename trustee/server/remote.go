package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/kbsapi"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/remoteas"
	"github.com/cofferproject/coffer/trustee/tenant"
	"github.com/cofferproject/coffer/trustee/trustauthority"
)

// Role is what of the trustee a process serves. Administration is in each: every
// one has a state of its own.
type Role string

// Roles.
const (
	RoleAll         Role = ""
	RoleKBS         Role = "kbs"  // handshakes and secrets, no published service beside
	RoleAttestation Role = "as"   // the Attestation Service, no handshakes and no secrets
	RoleReference   Role = "rvps" // the Reference Value Provider Service alone
)

// keyBroker reports whether handshakes are served.
func (r Role) keyBroker() bool { return r == RoleAll || r == RoleKBS }

func (c *Config) checkRole() error {
	v := &c.Services
	switch c.Role {
	case RoleAll:
		return nil
	case RoleKBS:
		if v.enabled() {
			return errors.New("role kbs serves neither of the published services beside it: use serve, or processes of their own (as, rvps)")
		}
		if c.Remote.Peer.Address == "" {
			return errors.New("role kbs judges no evidence: name the Attestation Service (--attestation-service), or use serve")
		}
		return nil
	case RoleAttestation:
		if v.Attestation == "" {
			return errors.New("role as: no address of the Attestation Service")
		}
	case RoleReference:
		if v.Reference == "" || v.Attestation != "" {
			return errors.New("role rvps serves the Reference Value Provider Service, and that alone")
		}
	default:
		return fmt.Errorf("role %.20q is none of kbs, as, rvps", c.Role)
	}
	if c.Role == RoleReference && c.Remote.ReferenceValues.Address != "" {
		return errors.New("role rvps has the reference values itself, and asks no other service")
	}
	if c.Remote.Peer.Address != "" || !c.Remote.Tokens.Empty() {
		return fmt.Errorf("role %s serves no handshakes: another Attestation Service and others' tokens are for a KBS", c.Role)
	}
	return nil
}

// Remote says who else judges evidence for one namespace, and whose tokens are taken
// there. The zero value: nobody.
type Remote struct {
	// Peer is the Attestation Service that judges; without an address evidence is
	// judged in this process.
	Peer remoteas.Peer
	// Tokens are whose tokens count beside the trustee's own: those of Peer, and
	// passports of other services.
	Tokens remoteas.Sources
	// Namespace for which all this is; "": default.
	Namespace string

	// TrustAuthority is Intel Trust Authority, which judges for the namespace in the place
	// of Peer; without a URL it does not.
	TrustAuthority trustauthority.Options

	// ReferenceValues is the Reference Value Provider Service that policies of the
	// published services' namespace ask; without an address values are in this
	// trustee's store.
	ReferenceValues remoteas.Peer

	timeout time.Duration // of one question; 0: the default
}

// remote is what of it is open.
type remote struct {
	conn  *grpc.ClientConn
	trust *remoteas.Trust // nil: own tokens alone count
	ns    string

	rvps   *grpc.ClientConn
	values *remoteas.References // nil: in the store

	authority *trustauthority.Service // nil: it judges nothing
	fetching  chan struct{}           // closed when nothing fetches its keys any more
}

func (r *remote) open(c *Config) error {
	v := &c.Remote
	if r.ns = v.Namespace; r.ns == "" {
		r.ns = trusteeapi.DefaultNamespace
	}
	var err error
	if v.ReferenceValues.Address != "" {
		if r.rvps, err = remoteas.Dial(v.ReferenceValues); err != nil {
			return fmt.Errorf("reference value provider service: %w", err)
		}
		r.values = remoteas.NewReferences(r.rvps, v.ReferenceValues.Address, c.Now)
	}
	if v.TrustAuthority.URL != "" && (v.Peer.Address != "" || c.Role != RoleAll) {
		return errors.New("Intel Trust Authority judges for a trustee in one process, and for none that asks another Attestation Service")
	}
	if v.Peer.Address == "" && v.Tokens.Empty() {
		return nil
	}
	if r.trust, err = remoteas.NewTrust(v.Tokens); err != nil {
		return err
	}
	if v.Peer.Address == "" {
		return nil
	}
	if r.conn, err = remoteas.Dial(v.Peer); err != nil {
		return fmt.Errorf("attestation service: %w", err)
	}
	return nil
}

// appraiser gives what judges evidence of handshakes.
func (r *remote) appraiser(ctx context.Context, c *Config, local *appraisal.Service, registry *tenant.Registry, signer appraisal.Signer) (kbsapi.Appraiser, error) {
	if r.trust != nil {
		if _, err := registry.Namespace(ctx, r.ns); err != nil {
			return nil, err
		}
	}
	if c.Remote.TrustAuthority.URL != "" {
		if _, err := registry.Namespace(ctx, r.ns); err != nil {
			return nil, err
		}
		var err error
		r.authority, err = trustauthority.New(trustauthority.Config{
			Options: c.Remote.TrustAuthority, Namespace: r.ns, Local: local, Registry: registry, Signer: signer, Now: c.Now,
		})
		c.Log.Info("evidence is judged by Intel Trust Authority", "namespace", r.ns, "address", c.Remote.TrustAuthority.URL)
		return r.authority, err
	}
	if r.conn == nil {
		return local, nil
	}
	c.Log.Info("evidence is judged by another process", "namespace", r.ns, "address", c.Remote.Peer.Address)
	return remoteas.New(remoteas.Config{
		Connection: r.conn, Name: c.Remote.Peer.Address, Namespace: r.ns, Trust: r.trust, Local: local, Registry: registry, Signer: signer,
		Now: c.Now, InsecureSample: c.InsecureSample, Timeout: c.Remote.timeout,
	})
}

// passports gives whose tokens the release gate takes.
func (s *Server) passports(registry *tenant.Registry) release.Tokens {
	if s.remote.trust == nil {
		return s.tokens
	}
	return &remoteas.Passports{Tokens: s.tokens, Namespace: s.remote.ns, Trust: s.remote.trust, Registry: registry, Now: s.cfg.Now}
}

// start fetches what has to be fetched, until ctx ends.
func (r *remote) start(ctx context.Context) {
	if r.authority == nil {
		return
	}
	r.fetching = make(chan struct{})
	go func() {
		defer close(r.fetching)
		r.authority.Run(ctx)
	}()
}

// wait waits until nothing is fetched any more.
func (r *remote) wait() {
	if r.fetching != nil {
		<-r.fetching
	}
}

func (r *remote) reload() error {
	if r.trust == nil {
		return nil
	}
	return r.trust.Reload()
}

func (r *remote) close() error {
	var errs []error
	for _, c := range []*grpc.ClientConn{r.conn, r.rvps} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	r.conn, r.rvps = nil, nil
	return errors.Join(errs...)
}

// references gives the values of a namespace whose are in another process.
func (r *remote) references(served string) func(ns string) *policy.References {
	if r.values == nil {
		return nil
	}
	return func(ns string) *policy.References {
		if ns != served {
			return nil
		}
		return r.values.Policy()
	}
}

// query asks for values in another process; nil: they are here.
func (r *remote) query() func(ctx context.Context, name string) (any, bool, error) {
	if r.values == nil {
		return nil
	}
	return r.values.Query
}

// noKeyBroker answers where no handshakes are served.
func noKeyBroker(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	none := func(w http.ResponseWriter, _ *http.Request) {
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePlugin, "no Key Broker Service is served here")
	}
	mux.HandleFunc(kbs.PathPrefix+"/", none)
	mux.HandleFunc("/ns/{ns}"+kbs.PathPrefix+"/", none)
}
