// Package keyholder is the guest process that holds keys: attestation agent and
// confidential data hub in one, with their published ttrpc APIs on Unix sockets
// (design.md section 2; shared spec guest-components, sections 1 and 2).
//
// Invariants: the only trustee is the one in initdata, over TLS, under the CA
// in initdata; one attestation serves all requests until its token ends; the
// TEE's private key never leaves the process unless initdata says so; a layer's
// key is unwrapped only for an image of the pod policy; a key for identities is
// born here and leaves only with a certificate for a name that initdata lists; where
// initdata binds evidence to the channel there is none for any other; no secret is logged.
//
// Trust zone: guest. guest/proc gives the process locked memory and no dumps.
package keyholder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/keyproviderpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/clock"
	"github.com/cofferproject/coffer/tee/aael"
	"github.com/cofferproject/coffer/tee/attest"
)

// Published socket paths.
const (
	CDHSocket = "/run/confidential-containers/cdh.sock"
	AASocket  = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
)

// EventSocket is where the guest's REST server asks for events (not published:
// there it speaks to AASocket, which also gives tokens).
const EventSocket = "/run/confidential-containers/attestation-agent/events.sock"

// teeKeyAlgorithm is the published name of the one kind of TEE key made here.
const teeKeyAlgorithm = "ECDH-ES+A256KW-P256"

// Attester gets evidence from the TEE or from a kind of device beside it.
type Attester = attest.Attester

// Config says what Run serves. Zero values other than the named defaults are errors.
type Config struct {
	// Initdata is the plain document that was measured; nil if there was no
	// device: then nothing can be attested to.
	Initdata []byte
	// OpenAttester opens the TEE's device.
	OpenAttester func() (Attester, error)
	// OpenDevices opens the devices beside the CPU that this guest can attest, by
	// their TEEs' wire names; attest.ErrNotPresent: the machine has none. Which of
	// them are attested is for initdata to say.
	OpenDevices map[string]func() (Attester, error)
	// Floor is the date of the source revision, part of the image.
	Floor time.Time
	// Control, if set, is the agent's end for handing over layer-key
	// connections, see package layerkey.
	Control *net.UnixConn
	// CDHSocket and AASocket are the published paths if empty.
	CDHSocket, AASocket string
	// EventSocket, if set, is where the REST server asks for run-time events to be
	// recorded: the attestation agent's API with this one call.
	EventSocket string
	// EventLogDir is where the event log is kept; aael.Dir if empty.
	EventLogDir string
	// EventsElsewhere says that another process is the attestation agent. A document
	// that wants events recorded is refused then: the log has one writer, whom the
	// evidence made here would not wait for.
	EventsElsewhere bool
	// SocketGID is the group that may connect to the CDH socket and the event
	// socket besides root.
	SocketGID int
	// AttestTimeout bounds one attestation with its retries; 30 s if zero.
	AttestTimeout time.Duration
	Logger        *slog.Logger
}

// Server is the key holder.
type Server struct {
	cfg       Config
	log       *slog.Logger
	client    *client           // nil: no trustee, see noTrustee
	noTrustee error             // why
	tee       *future[Attester] // being opened
	devices   *devices          // beside it
	manifests map[string]bool   // digests that the pod policy names
	gate      *gate             // packets of verified manifests, for the published socket
	aa        *initdata.AAKBS   // may be nil
	events    *events           // nil: run-time events are not recorded
	clock     *clock.Clock
}

// New reads initdata. An error means that the document is broken, which the
// agent treats as fatal; that it names no trustee is not an error.
func New(cfg Config) (*Server, error) {
	if cfg.OpenAttester == nil || cfg.Logger == nil {
		return nil, errors.New("key holder: attester or logger missing")
	}
	if cfg.CDHSocket == "" {
		cfg.CDHSocket = CDHSocket
	}
	if cfg.AASocket == "" {
		cfg.AASocket = AASocket
	}
	if cfg.EventLogDir == "" {
		cfg.EventLogDir = aael.Dir
	}
	if cfg.AttestTimeout == 0 {
		cfg.AttestTimeout = 30 * time.Second
	}
	clk, err := clock.New(cfg.Floor)
	if err != nil {
		return nil, fmt.Errorf("key holder: %w", err)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, clock: clk, manifests: map[string]bool{}, gate: newGate()}
	s.devices = &devices{open: cfg.OpenDevices, log: cfg.Logger}
	if cfg.Initdata == nil {
		s.noTrustee = errors.New("the guest was started without initdata")
		return s, nil
	}
	if err := s.readInitdata(); err != nil {
		return nil, fmt.Errorf("key holder: %w", err)
	}
	return s, nil
}

func (s *Server) readInitdata() error {
	doc, err := initdata.Parse(s.cfg.Initdata)
	if err != nil {
		return err
	}
	aa, err := doc.AA()
	if err != nil {
		return err
	}
	cdh, err := doc.CDH()
	if err != nil {
		return err
	}
	if err := unsupported(aa, cdh); err != nil {
		return err
	}
	if aa != nil {
		s.aa = aa.TokenConfigs.KBS
	}
	if s.events, err = newEvents(aa, s.cfg.EventLogDir, s.log); err != nil {
		return err
	}
	if s.events != nil && s.cfg.EventsElsewhere {
		return fmt.Errorf("%s: enable_eventlog is not supported beside another attestation agent", initdata.KeyAA)
	}
	if s.devices.want, err = doc.AdditionalDevices(); err != nil {
		return err
	}
	url, cert, ok, err := doc.KBS()
	if err != nil {
		return err
	}
	if text, has := doc.Data[podpolicy.DataKey]; has {
		p, err := podpolicy.Parse([]byte(text))
		if err != nil {
			return err
		}
		for _, list := range [][]podpolicy.Container{p.InitContainers, p.Containers} {
			for _, c := range list {
				s.manifests[c.ManifestDigest] = true
			}
		}
	}
	if !ok {
		s.noTrustee = errors.New("initdata names no trustee")
		return nil
	}
	s.client, err = newClient(url, cert, s.clock, s.log)
	if err != nil {
		return err
	}
	s.client.initdata, s.client.devices = s.cfg.Initdata, s.devices
	s.client.attestTimeout = s.cfg.AttestTimeout
	if aa != nil {
		s.client.bindChannel, s.client.identities = aa.BindChannel, aa.Identities
	}
	if s.events != nil {
		s.events.recorded = s.client.forget
	}
	return nil
}

// unsupported refuses settings that would have an effect in the published
// daemons and have none here: an owner who asked for them must not be ignored.
func unsupported(aa *initdata.AAConfig, cdh *initdata.CDHConfig) error {
	if aa != nil {
		if k := aa.TokenConfigs.KBS; k != nil && k.TEEKeyAlgorithm != "" && k.TEEKeyAlgorithm != teeKeyAlgorithm {
			return fmt.Errorf("%s: tee_key_algorithm %.60q is not supported, only %s", initdata.KeyAA, k.TEEKeyAlgorithm, teeKeyAlgorithm)
		}
	}
	if cdh != nil {
		if n := cdh.KBC.Name; n != "" && n != "cc_kbc" {
			return fmt.Errorf("%s: kbc.name %.60q is not supported, only cc_kbc", initdata.KeyCDH, n)
		}
		if len(cdh.Credentials) > 0 {
			return fmt.Errorf("%s: credentials are not supported", initdata.KeyCDH)
		}
	}
	return nil
}

// Run serves until ctx ends. It returns only when nothing of it runs any more.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.tee = start(func() (Attester, error) { return s.openAttester(ctx) })
	defer func() {
		if s.client != nil {
			s.client.stop() // it uses the TEE
		}
		s.devices.close()
		if a, err := s.tee.get(context.Background()); err == nil {
			_ = a.Close()
			if s.events != nil {
				_ = s.events.close()
			}
		}
	}()
	if s.client != nil {
		s.client.tee, s.client.life = s.tee, ctx
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	errs := make(chan error, 4)
	serve := func(path string, gid int, register func(*ttrpc.Server)) error {
		l, err := listen(path, gid)
		if err != nil {
			return err
		}
		srv, err := ttrpc.NewServer()
		if err != nil {
			return fmt.Errorf("key holder: %w", err)
		}
		register(srv)
		wg.Go(func() {
			if err := srv.Serve(ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
				errs <- fmt.Errorf("serving %s: %w", path, err)
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			_ = srv.Close()
		})
		return nil
	}
	defer cancel()
	if err := serve(s.cfg.AASocket, 0, func(srv *ttrpc.Server) {
		aapb.RegisterAttestationAgentServiceService(srv, &attestationAgent{s})
	}); err != nil {
		return err
	}
	if err := serve(s.cfg.CDHSocket, s.cfg.SocketGID, func(srv *ttrpc.Server) {
		cdhpb.RegisterGetResourceServiceService(srv, &dataHub{s})
		cdhpb.RegisterSealedSecretServiceService(srv, &dataHub{s})
		keyproviderpb.RegisterKeyProviderServiceService(srv, &dataHub{s})
	}); err != nil {
		return err
	}
	if s.cfg.EventSocket != "" {
		if err := serve(s.cfg.EventSocket, s.cfg.SocketGID, func(srv *ttrpc.Server) {
			aapb.RegisterAttestationAgentServiceService(srv, &eventRecorder{s: s})
		}); err != nil {
			return err
		}
	}
	if s.cfg.Control != nil {
		wg.Go(func() { errs <- s.serveControl(ctx) })
	}
	if s.client != nil {
		// Early, so that the first layer need not wait; the network may not be up yet.
		wg.Go(func() { s.client.warmUp(ctx) })
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-errs:
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// openAttester opens the TEE, and the event log before any evidence is made.
func (s *Server) openAttester(ctx context.Context) (Attester, error) {
	a, err := s.cfg.OpenAttester()
	if err != nil || s.events == nil {
		return a, err
	}
	if err := s.events.open(ctx, a); err != nil {
		s.log.Error("no attestation: the event log cannot be used", "err", err)
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// listen makes a socket that only root and one group may connect to.
func listen(path string, gid int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("key holder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("key holder: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("key holder: %w", err)
	}
	mode := os.FileMode(0o600)
	if gid != 0 {
		mode = 0o660
		if err := os.Chown(path, -1, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("key holder: %w", err), l.Close())
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("key holder: %w", err), l.Close())
	}
	return l, nil
}

// future is a value that is being made.
type future[T any] struct {
	done chan struct{}
	v    T
	err  error
}

func start[T any](f func() (T, error)) *future[T] {
	r := &future[T]{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.v, r.err = f()
	}()
	return r
}

func (f *future[T]) get(ctx context.Context) (T, error) {
	select {
	case <-f.done:
		return f.v, f.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
