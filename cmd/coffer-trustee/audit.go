package main

import (
	"errors"
	"flag"
	"net/netip"

	"github.com/cofferproject/coffer/trustee/server"
	"github.com/cofferproject/coffer/trustee/trace"
	"github.com/cofferproject/coffer/trustee/witness"
)

var errNoWitness = errors.New("it comes after the --audit-witness that it is for")

// auditFlags adds the flags of the audit log's witnesses. What --audit-witness-ca and
// its neighbours name holds for the --audit-witness before them.
func auditFlags(f *flag.FlagSet, a *server.Audit) {
	f.Func("audit-witness", "URL that gets signed checkpoints of the audit log: https://..., syslog+tls://HOST:PORT, syslog+tcp://HOST:PORT or syslog+unix:///PATH; may be repeated", func(s string) error {
		a.Witnesses = append(a.Witnesses, witness.Target{URL: s})
		return nil
	})
	for name, x := range map[string]struct {
		help string
		at   func(*witness.Target) *string
	}{
		"audit-witness-ca":       {"certificates (PEM) of who vouches for the --audit-witness before (default: the system's)", func(t *witness.Target) *string { return &t.CAFile }},
		"audit-witness-cert":     {"certificate (PEM) that is shown to the --audit-witness before", func(t *witness.Target) *string { return &t.CertFile }},
		"audit-witness-key":      {"its key (PEM)", func(t *witness.Target) *string { return &t.KeyFile }},
		"audit-witness-hmac-key": {"file with a key, 32 bytes or more, that signs what the https --audit-witness before gets", func(t *witness.Target) *string { return &t.HMACFile }},
	} {
		f.Func(name, x.help, func(s string) error {
			if len(a.Witnesses) == 0 {
				return errNoWitness
			}
			*x.at(&a.Witnesses[len(a.Witnesses)-1]) = s
			return nil
		})
	}
	f.Func("audit-log", "where the audit log is kept: files, in --state, or store, with everything else (default files)", func(s string) error {
		if s != "files" && s != "store" {
			return errors.New("neither files nor store")
		}
		a.InStore = s == "store"
		return nil
	})
	f.IntVar(&a.WitnessRequired, "audit-witness-required", 0, "release nothing while an --audit-witness has left so many checkpoints unacknowledged; 0: release all the same")
	f.DurationVar(&a.CheckpointEvery, "audit-checkpoint-every", 0, "how often an audit log that has grown is signed (default 5m)")
}

// traceFlags adds the flags of traces.
func traceFlags(f *flag.FlagSet, c *trace.Config) {
	f.StringVar(&c.Endpoint, "trace-endpoint", "", "URL that gets traces by OTLP/HTTP (JSON), such as https://collector:4318/v1/traces; http on this machine only (default: none)")
	f.StringVar(&c.CAFile, "trace-ca", "", "certificates (PEM) of who vouches for it (default: the system's)")
	f.StringVar(&c.HeaderFile, "trace-headers", "", "file with lines \"Name: value\" that go with every batch, such as a token")
	f.Float64Var(&c.Ratio, "trace-ratio", 1, "part of the requests that is traced, up to 1")
	f.Func("trace-accept", "network (CIDR) of peers whose traceparent counts; may be repeated (default: nobody's)", func(s string) error {
		p, err := netip.ParsePrefix(s)
		if err == nil {
			c.Accept = append(c.Accept, p.Masked())
		}
		return err
	})
}
