package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/attester"
	"github.com/cofferproject/coffer/tee/snp/sim"
)

const (
	namespace = "sim"
	secret    = "default/load/secret"
)

// pod is what attests: a guest on a simulated chip, with its initdata.
type pod struct {
	doc      []byte
	attester *attester.Attester
	ns       string // URL of its namespace
	pool     *x509.CertPool
	values   map[string]any // reference values
}

// prepare registers the chip's root, the guest's measurement and a secret for it.
func prepare(ctx context.Context, s *server) (*pod, error) {
	p := &pod{ns: s.cfg.URL + "/ns/" + namespace + "/kbs/v0", pool: x509.NewCertPool()}
	p.pool.AppendCertsFromPEM([]byte(s.cfg.CAPEM))
	a, err := sim.NewAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	chip, err := a.Chip(sim.Genoa, sim.Genoa.DefaultTCB(), time.Now())
	if err != nil {
		return nil, err
	}
	if p.doc, err = initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{"note": "load"}}); err != nil {
		return nil, err
	}
	guest := sim.Guest{Digest: [48]byte{7}, HostData: sha256.Sum256(p.doc), Policy: snp.Policy(launch.DefaultSNPPolicy)}
	m, err := chip.Launch(guest)
	if err != nil {
		return nil, err
	}
	if p.attester, err = attester.New(m, attester.Options{Simulation: sim.Note("00", "EPYC-v4")}); err != nil {
		return nil, err
	}
	n := s.client.Namespace(namespace)
	if _, err := n.AddRoot(ctx, "snp", a.Root()); err != nil {
		return nil, err
	}
	b := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "load"}, Sets: []refvalue.Set{}}
	t := chip.TCB
	pol := guest.Policy
	p.values = map[string]any{
		"snp_launch_measurement": fmt.Sprintf("%x", guest.Digest),
		"snp_bootloader":         t.Bootloader, "snp_microcode": t.Microcode, "snp_snp_svn": t.SNP, "snp_tee_svn": t.TEE,
		"snp_smt_enabled": true, "snp_tsme_enabled": false, "snp_guest_abi_major": pol.ABIMajor(), "snp_guest_abi_minor": pol.ABIMinor(),
		"snp_single_socket": pol.SingleSocket(), "snp_smt_allowed": pol.SMT(),
	}
	for name, v := range p.values {
		b.AddValues(name, v)
	}
	enc, err := b.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := n.RegisterReferenceValues(ctx, "load", enc); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(p.doc)
	for _, name := range []string{secret} {
		if _, err := n.PutResource(ctx, name, []byte("hunter2")); err != nil {
			return nil, err
		}
		if _, err := n.Bind(ctx, name, trusteeapi.Binding{Initdata: []string{fmt.Sprintf("sha256:%x", sum)}}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// client is one connection of a guest.
type client struct {
	p    *pod
	http *http.Client
	key  *ecdh.PrivateKey
	tee  *kbs.TEEKey
	// auth and attest are how long the last requests took.
	auth, attest time.Duration
}

func (p *pod) client() (*client, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	c := &client{p: p, http: &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, MaxIdleConnsPerHost: 1}}}
	if c.key, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	c.tee, err = kbs.NewTEEKey(c.key.PublicKey())
	return c, err
}

func (c *client) post(path string, in any) ([]byte, time.Duration, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, 0, err
	}
	begun := time.Now()
	resp, err := c.http.Post(c.p.ns+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", path, resp.Status, b)
	}
	return b, time.Since(begun), err
}

// challenge opens a session.
func (c *client) challenge() (nonce string, err error) {
	b, took, err := c.post("/auth", map[string]any{"version": kbs.ProtocolVersion, "tee": "snp", "extra-params": ""})
	if err != nil {
		return "", err
	}
	c.auth = took
	var ch struct {
		Nonce string `json:"nonce"`
	}
	return ch.Nonce, json.Unmarshal(b, &ch)
}

// handshake opens a session and attests in it.
func (c *client) handshake(ctx context.Context) error {
	nonce, err := c.challenge()
	if err != nil {
		return err
	}
	data, err := kbs.RuntimeDataHash("sha384", nonce, c.tee, "")
	if err != nil {
		return err
	}
	padded := make([]byte, 64)
	copy(padded, data)
	e, err := c.p.attester.Evidence(ctx, padded, nil)
	if err != nil {
		return err
	}
	_, took, err := c.post("/attest", map[string]any{
		"runtime-data": map[string]any{"nonce": nonce, "tee-pubkey": c.tee},
		"tee-evidence": map[string]any{"primary_evidence": e, "additional_evidence": ""},
		"init-data":    map[string]any{"format": "toml", "body": string(c.p.doc)},
	})
	c.attest = took
	return err
}

// read gets the secret on the session.
func (c *client) read() error {
	_, err := c.resource()
	return err
}

func (c *client) resource() ([]byte, error) {
	resp, err := c.http.Get(c.p.ns + "/resource/" + secret)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("resource: %s %s", resp.Status, b)
	}
	return b, err
}

// opens checks that what is released is the secret.
func (c *client) opens() error {
	b, err := c.resource()
	if err != nil {
		return err
	}
	got, err := kbs.Open(c.key, b)
	if err != nil || string(got) != "hunter2" {
		return fmt.Errorf("the secret is %q, %w", got, err)
	}
	return nil
}

// p384 gives the CPU time of one verification with the standard library, while n
// processors verify at once: a busy neighbour may be half of the same core, and the
// server's own time is taken with all of them busy.
func p384(n int) (time.Duration, error) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return 0, err
	}
	h := sha512.Sum384([]byte("load"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, h[:])
	if err != nil {
		return 0, err
	}
	const times = 200
	var wrong atomic.Bool
	var wg sync.WaitGroup
	before := own()
	for range n {
		wg.Go(func() {
			for range times {
				if !ecdsa.VerifyASN1(&k.PublicKey, h[:], sig) {
					wrong.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if wrong.Load() {
		return 0, errors.New("a signature does not verify")
	}
	return (own() - before) / time.Duration(times*n), nil
}

// own gives the CPU time of this process.
func own() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
