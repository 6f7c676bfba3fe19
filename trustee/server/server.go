// Package server puts the trustee together: Key Broker Service, Attestation
// Service and Reference Value Provider Service in one process on one store.
//
// Invariants: the first start makes every key, and no start ever falls back to a
// default one; client.json and the ready line come after everything works; what
// was acknowledged before a kill -9 is there after it.
//
// Trust zone: trustee.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/adminapi"
	"github.com/cofferproject/coffer/trustee/adminjwt"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/asapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/identity"
	"github.com/cofferproject/coffer/trustee/kbsapi"
	"github.com/cofferproject/coffer/trustee/kbsconfig"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/oidc"
	"github.com/cofferproject/coffer/trustee/ops"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/secretstores"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/shelf"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
	"github.com/cofferproject/coffer/trustee/trace"
	"github.com/cofferproject/coffer/trustee/witness"
)

// DefaultNames are in every certificate; 10.0.2.2 is the host as guests of
// QEMU's user-mode network see it.
var DefaultNames = []string{"localhost", "127.0.0.1", "::1", "10.0.2.2"}

const lockWait = 12 * time.Second

const bodyMemory = 128 << 20 // bytes of all request bodies together

// Config makes a Server.
type Config struct {
	State  string   // folder
	Listen string   // address
	Names  []string // further names of the certificate
	// SimulatedNamespace, if not "", is made as simulated.
	SimulatedNamespace string
	Log                *slog.Logger
	Now                func() time.Time
	// LockWait is how long to wait for another trustee on the same state to end;
	// 0: longer than one takes to end gracefully.
	LockWait time.Duration
	// Verifiers adds TEEs, keyed by wire name, to those built in; for tests.
	Verifiers map[string]appraisal.Factory
	// InsecureSample adds the verifiers of samples, whose evidence anybody can make.
	InsecureSample bool
	// Fetch says what collateral is fetched from vendors; zero: none.
	Fetch fetch.Options
	// Collateral is a bundle, or a folder of them, that is imported at the start.
	Collateral string
	Operations Operations
	Audit      Audit
	Tracing    trace.Config
	// Limits bound what is kept; nil: the defaults.
	Limits limits.Set
	// CertFile and KeyFile (PEM) replace the certificate that the trustee makes; ""
	// and "": it makes one. They are read anew every day.
	CertFile, KeyFile string
	TLS               kbsconfig.TLS
	// Plugins are asked over gRPC for what is below /kbs/v0/external/NAME.
	Plugins []plugin.Backend
	// SecretStores have secrets that namespaces map to them.
	SecretStores []*secretstore.Spec
	// ProvisionerKeyLength is how many characters the keys of the provisioner plugin have;
	// 0: it is not served.
	ProvisionerKeyLength int
	// Nebula has the nebula-ca plugin served; nil: it is not.
	Nebula *nebulaca.Config
	// FirstAdmin is a file with the public key (PEM, Ed25519) of the administrator whom
	// the first start registers; "": that makes a key.
	FirstAdmin string
	// AdminClientCA (PEM) is who issues administrators' client certificates; with it,
	// or AskForCertificates, peers are asked for one. "": names in them do not count.
	AdminClientCA      string
	AskForCertificates bool
	// DenyPublishedAdmin refuses the published administration of resources.
	DenyPublishedAdmin bool
	// PublishedAdmin takes administrators of identity providers there; nil: none.
	PublishedAdmin *adminjwt.Config
	// AdminIssuers are OpenID Connect providers whose tokens say who an administrator is.
	AdminIssuers []oidc.Config
	// Services are the published services beside the KBS.
	Services Services
	// Role is what of the trustee this process serves; "": all of it.
	Role Role
	// Remote says who else judges evidence, and whose tokens are taken.
	Remote Remote
	// Database is the connection string of the PostgreSQL database that replicas
	// share; "" is the embedded store. DatabaseConnections is the most that are
	// open at once (0: a default). EnvelopeKey is the path of the key that unlocks
	// the store ("": in State).
	Database            string
	DatabaseConnections int
	EnvelopeKey         string
	// KeyService (keyservices.Open) unwraps the envelope key; "": its file is the key.
	// OldEnvelopeKey is one of before, whose values are read still, with a service of
	// its own.
	KeyService     string
	OldEnvelopeKey string
	OldKeyService  string
	// WrapStore lets a test put faults between the server and its store.
	WrapStore func(store.Store) store.Store
}

// Server is a running trustee.
type Server struct {
	cfg     Config
	store   store.Store
	lock    *os.File // of the state folder, where the store has none
	shelf   *shelf.Shelf
	fetcher *fetch.Fetcher
	kek     keyring.KEK
	keys    *keyring.Keys
	tokens  *keyring.TokenKeys
	// identities are the authorities of guests' identities.
	identities *keyring.Identities
	audit      *audit.Log
	sessions   *session.Manager

	checkpoints *audit.Checkpointer
	witnesses   *witness.Set
	tracer      *trace.Tracer // nil: none
	plugins     *plugin.Host
	secrets     *secretstore.Set

	gate     *release.Gate
	registry *tenant.Registry
	bodies   *httpio.Budget
	metrics  *ops.Metrics
	ready    *ops.Ready
	opsLn    net.Listener
	opsHTTP  *http.Server
	admin    string // path of the admin key
	conns    int    // connections of each listener
	ln       net.Listener
	http     *http.Server
	cert     atomic.Pointer[presented]
	stop     context.CancelFunc
	tasks    chan struct{}
	served   chan error
	services *asapi.Service // nil: not served
	as, rvps *service
	remote   remote
	anchor   atomic.Pointer[[]byte] // PEM of what vouches for CertFile
	access
	watched
}

// Version of the build, from the module's build information.
func Version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// Start opens the state, listens and serves.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.State == "" || c.Listen == "" || c.Log == nil || c.Now == nil {
		return nil, errors.New("trustee: a part of the configuration is missing")
	}
	if c.Limits == nil {
		c.Limits = limits.Defaults()
	}
	if err := c.checkRole(); err != nil {
		return nil, fmt.Errorf("starting trustee: %w", err)
	}
	s := &Server{cfg: c, tasks: make(chan struct{}), served: make(chan error, 3)}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting trustee: %w", err), s.closeState())
	}
	h, err := s.handler(ctx)
	if err == nil {
		h, err = s.front(h)
	}
	if err == nil {
		err = s.boundConnections()
	}
	if err == nil {
		err = s.listen(ctx, h)
	}
	if err == nil {
		err = s.listenOps(ctx)
	}
	if err == nil && s.services != nil {
		err = s.listenServices(ctx, s.services)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting trustee: %w", err), s.closeState())
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.housekeeping(run)
	s.fetcher.Start(run)
	s.remote.start(run)
	s.secrets.Start(run, func(store, what string, err error) {
		c.Log.Warn("a secret store is not as it should be", "store", store, "what", what, "error", err)
	})
	s.providers.Start(run)
	go func() { s.served <- s.http.ServeTLS(s.ln, "", "") }()
	go s.as.serve(s.served)
	go s.rvps.serve(s.served)
	if err := s.writeClientConfig(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting trustee: %w", err), s.Close(ctx))
	}
	return s, nil
}

// open brings up store, keys and audit log.
func (s *Server) open(ctx context.Context) error {
	c := s.cfg
	s.metrics = ops.NewMetrics(Version(), c.Now(), storeNames(c.SecretStores))
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	if err := s.openState(ctx); err != nil {
		return err
	}
	if c.WrapStore != nil {
		s.store = c.WrapStore(s.store)
	}
	if err := s.openTracer(); err != nil {
		return err
	}
	var err error
	if s.audit, err = s.openAudit(); err != nil {
		return err
	}
	if s.keys, err = keyring.Load(ctx, s.store, s.kek, c.Now()); err != nil {
		return err
	}
	s.tokens = keyring.NewTokenKeys(s.store, s.kek, s.keys, c.Now, hasNamespace)
	s.identities = keyring.NewIdentities(s.store, s.kek, c.Now, hasNamespace)
	auditKey, err := keyring.AuditKey(ctx, s.store, s.kek)
	if err != nil {
		return err
	}
	if s.checkpoints, err = audit.NewCheckpointer(s.audit, auditKey, s.keys.Instance); err != nil {
		return err
	}
	if err := s.openWitnesses(); err != nil {
		return err
	}
	if s.admin, err = firstAdmin(ctx, s.store, &s.cfg); err != nil {
		return err
	}
	if err := s.audit.Append(ctx, &audit.Entry{Kind: audit.KindStart, Record: record.NewID(), Action: "coffer-trustee " + Version()}); err != nil || !c.Audit.InStore {
		return err
	}
	return s.checkpoints.Write(ctx) // of a log that is new: there is one that vouches for it from now on
}

// handler makes everything that answers.
func (s *Server) handler(ctx context.Context) (http.Handler, error) {
	c := s.cfg
	registry, err := tenant.New(ctx, s.store, c.Limits, c.Now)
	if err != nil {
		return nil, err
	}
	if c.SimulatedNamespace != "" {
		if _, err := registry.CreateNamespace(ctx, trusteeapi.Namespace{Name: c.SimulatedNamespace, Simulated: true}); err != nil {
			return nil, err
		}
	}
	if err := s.remote.open(&c); err != nil {
		return nil, err
	}
	book := record.New(s.store, s.audit, c.Log, c.Now)
	book.Observe = s.metrics.Denied
	policies := respolicy.New(s.store, c.Now)
	if s.secrets, err = secretstore.NewSet(ctx, c.SecretStores, secretstores.Open); err != nil {
		return nil, err
	}
	s.secrets.Observe = s.metrics.SecretFetched
	gate, err := release.New(release.Config{
		Store: s.store, KEK: s.kek, Audit: s.audit, Book: book, Policies: policies, Tokens: s.passports(registry), Limits: c.Limits, Now: c.Now,
		Witnessed: s.witnesses.Check, Stores: s.secrets,
	})
	if err != nil {
		return nil, err
	}
	if c.InsecureSample {
		c.Log.Warn("samples are accepted as evidence, which anybody can make")
	}
	factories := appraisal.Builtin(s.keys.MAC, c.InsecureSample)
	for tee, f := range c.Verifiers {
		factories[tee] = f
	}
	items, err := shelf.Open(ctx, s.store, c.Limits, c.Now)
	if err != nil {
		return nil, err
	}
	s.shelf = items
	if c.Collateral != "" {
		if err := items.ImportPath(ctx, c.Collateral); err != nil {
			return nil, err
		}
	}
	if err := s.openFetcher(book); err != nil {
		return nil, err
	}
	service, err := appraisal.New(appraisal.Config{
		Registry: registry, Signer: s.tokens, Factories: factories, Collateral: items, References: s.remote.references(c.Services.namespace()), Missed: s.fetcher.MissedBy, Build: "coffer-trustee " + Version(), Now: c.Now,
	})
	if err != nil {
		return nil, err
	}
	bodies := httpio.NewBudget(bodyMemory)
	s.bodies = bodies
	if err := s.openAccess(ctx); err != nil {
		return nil, err
	}
	issuer, err := identity.New(registry, s.identities, c.Now)
	if err != nil {
		return nil, err
	}
	admin, err := adminapi.New(adminapi.Config{
		Store: s.store, Registry: registry, Gate: gate, Book: book, Audit: s.audit, Checkpoints: s.checkpoints, Bodies: bodies, Shelf: items, Fetcher: s.fetcher, Policies: policies, Log: c.Log, Now: c.Now,
		Info: trusteeapi.Info{Instance: s.keys.Instance, Version: Version()}, Published: c.PublishedAdmin,
		Backup:    func(ctx context.Context, w io.Writer) error { _, err := s.backup(ctx, w); return err },
		Providers: s.providers, Kept: c.keptNamespaces(), Replicas: c.Database != "", AdminTokens: c.Limits[limits.AdminTokens], TokenKeys: s.tokens, Identities: issuer, Credentials: s.credentials, ClientAuthorities: s.clientCA.Load,
	})
	if err != nil {
		return nil, err
	}
	s.gate, s.registry = gate, registry
	var published kbsapi.AdminResources = admin
	if c.DenyPublishedAdmin {
		published = denyAll{book}
	}
	s.sessions = session.New(s.store, s.keys.MAC, c.Limits, c.Now)
	appraiser, err := s.remote.appraiser(ctx, &s.cfg, service, registry, s.tokens)
	if err != nil {
		return nil, err
	}
	if s.plugins, err = plugin.New(c.Plugins); err != nil {
		return nil, err
	}
	inside, err := s.pluginsInside(ctx, gate)
	if err != nil {
		return nil, err
	}
	kbs, err := kbsapi.New(kbsapi.Config{
		Plugins: s.plugins, Provisioner: inside.provisioner, Nebula: inside.nebula, Identities: issuer,
		Service: appraiser, Gate: gate, Sessions: s.sessions, Registry: registry, Book: book, Audit: s.audit,
		Admin: published, Bodies: bodies, Log: c.Log, JWKS: s.tokens.JWKS, Soon: s.fetcher.Soon,
	})
	if err != nil {
		return nil, err
	}
	if c.Services.enabled() {
		if _, err := registry.Namespace(ctx, c.Services.namespace()); err != nil {
			return nil, err
		}
		if c.Services.InsecureUnbound {
			c.Log.Warn("evidence is judged without runtime data, so that nobody can tell whether it is fresh")
		}
		if s.services, err = asapi.New(asapi.Config{
			Namespace: c.Services.namespace(), Service: service, Registry: registry, Store: s.store, Book: book, Audit: s.audit, Bodies: bodies,
			Log: c.Log, JWKS: s.tokens.JWKS, Query: s.remote.query(), InsecureUnbound: c.Services.InsecureUnbound,
		}); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	s.ready = s.readiness()
	s.ready.Note = s.collateralNote
	mux.Handle("GET /readyz", s.ready)
	s.metrics.Gauge("waiting", "Guests that wait for a new version of a secret.", func() float64 { return float64(gate.Waiting()) })
	s.metrics.Gauge("body_bytes", "Bytes of request bodies in memory.", func() float64 { return float64(bodyMemory - bodies.Left()) })
	if c.Role.keyBroker() {
		kbs.Routes(mux)
	} else {
		noKeyBroker(mux)
	}
	admin.Routes(mux)
	return mux, nil
}

// listen makes the TLS listener. Its limits are for peers that nobody knows:
// every one has a time in which it must be done.
func (s *Server) listen(ctx context.Context, h http.Handler) error {
	if err := s.renewTLS(ctx); err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return err
	}
	share := s.cfg.Operations.PeerConns
	if share == 0 {
		share = s.conns / 2
	}
	conns := newLimited(ln, s.conns, share, s.metrics.Refused, s.metrics.Shed)
	s.metrics.Gauge("connections", "Open connections.", func() float64 { return float64(conns.open()) })
	s.ln = conns
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.present,
	}
	s.cfg.TLS.Apply(conf)
	s.askForCertificates(conf)
	s.http = &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 40 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 128 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig: conf,
	}
	attend(s.http)
	return nil
}

func (s *Server) names() []string { return append(append([]string{}, DefaultNames...), s.cfg.Names...) }

// URL gives the server's URL.
func (s *Server) URL() string {
	host, port, err := net.SplitHostPort(s.ln.Addr().String())
	if err != nil {
		return "https://" + s.ln.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}

// Client says how a tool on this machine reaches the server.
func (s *Server) Client() trusteeapi.ClientConfig {
	return trusteeapi.ClientConfig{
		URL: s.URL(), CAPEM: string(s.keys.CAPEM) + s.anchorPEM(), AdminKeyPath: s.admin, Namespace: s.cfg.SimulatedNamespace, StateDir: s.cfg.State, PID: os.Getpid(),
		AttestationURL: s.as.url(), ReferenceURL: s.rvps.url(),
	}
}

// anchorPEM gives what vouches for a certificate from a file.
func (s *Server) anchorPEM() string {
	if p := s.anchor.Load(); p != nil {
		return string(*p)
	}
	return ""
}
