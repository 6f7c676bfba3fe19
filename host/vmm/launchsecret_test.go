package vmm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/vmm/qmp"
	"github.com/cofferproject/coffer/test/fakesev"
)

// pausedQEMU speaks QMP as QEMU does for a paused launch of SEV, in front of a fake
// secure processor.
type pausedQEMU struct {
	sev     *fakesev.Processor
	state   string
	digest  []byte
	got     []byte // the secret, in the guest's memory
	running bool
	said    []string
	// answers replaces the answer to a command.
	answers map[string]string
}

func (q *pausedQEMU) serve(conn net.Conn) {
	defer conn.Close()
	_, _ = io.WriteString(conn, `{"QMP": {"version": {}, "capabilities": []}}`+"\n")
	for sc := bufio.NewScanner(conn); sc.Scan(); {
		var c struct {
			Execute   string
			Arguments struct {
				Header string `json:"packet-header"`
				Secret string `json:"secret"`
			}
		}
		if json.Unmarshal(sc.Bytes(), &c) != nil {
			return
		}
		q.said = append(q.said, c.Execute)
		answer, err := q.execute(c.Execute, c.Arguments.Header, c.Arguments.Secret)
		if err != nil {
			b, _ := json.Marshal(map[string]any{"error": map[string]string{"class": "GenericError", "desc": err.Error()}})
			answer = string(b)
		}
		if a := q.answers[c.Execute]; a != "" {
			answer = a
		}
		_, _ = io.WriteString(conn, answer+"\n")
	}
}

func (q *pausedQEMU) execute(command, header, secret string) (string, error) {
	reply := func(v any) (string, error) {
		b, err := json.Marshal(map[string]any{"return": v})
		return string(b), err
	}
	switch command {
	case "qmp_capabilities":
		return reply(struct{}{})
	case "query-sev":
		return reply(map[string]any{"sev-type": "sev", "enabled": true, "state": q.state, "api-major": q.sev.Major, "api-minor": q.sev.Minor, "build-id": q.sev.Build, "policy": 63, "handle": 1})
	case "query-sev-launch-measure":
		measure, nonce, err := q.sev.Measure(q.digest)
		if err != nil {
			return "", errors.New("SEV launch measurement is not available")
		}
		return reply(map[string]string{"data": base64.StdEncoding.EncodeToString(slices.Concat(measure, nonce))})
	case "sev-inject-launch-secret":
		h, err1 := base64.StdEncoding.DecodeString(header)
		s, err2 := base64.StdEncoding.DecodeString(secret)
		got, err := q.sev.Inject(h, s)
		if err = errors.Join(err1, err2, err); err != nil {
			return "", err
		}
		q.got = got
		return reply(struct{}{})
	case "cont":
		q.running = true
		return reply(struct{}{})
	}
	return "", errors.New("The command " + command + " has not been found")
}

// TestLaunchSecret: a guest runs with the owner's secret in its memory, or not at all.
func TestLaunchSecret(t *testing.T) {
	const url = "https://owner.example/secret"
	table := bytes.Repeat([]byte("correct horse 16"), 2)
	good := func(q *pausedQEMU) AskOwner {
		return func(_ context.Context, at string, m *launch.SEVMeasurement) (*launch.SEVSecret, error) {
			if at != url || m.Check() != nil || m.APIMinor != q.sev.Minor || m.Build != q.sev.Build || m.Policy != 63 {
				t.Errorf("%s is asked with %+v", at, m)
			}
			header, data, err := q.sev.Packet(table)
			return &launch.SEVSecret{Header: header, Secret: data}, err
		}
	}
	for name, c := range map[string]struct {
		change func(*pausedQEMU)
		ask    func(q *pausedQEMU) AskOwner
		says   string
	}{
		"good":        {},
		"not paused":  {change: func(q *pausedQEMU) { q.state = "running" }, says: `state "running"`},
		"no launch":   {change: func(q *pausedQEMU) { q.sev = &fakesev.Processor{} }, says: "measurement is not available"},
		"half of it":  {change: func(q *pausedQEMU) { q.answers["query-sev-launch-measure"] = `{"return": {"data": "AAAA"}}` }, says: "3 bytes, not 48"},
		"no SEV":      {change: func(q *pausedQEMU) { q.answers["query-sev"] = `{"return": {"enabled": false}}` }, says: "state"},
		"other types": {change: func(q *pausedQEMU) { q.answers["query-sev"] = `{"return": {"enabled": "yes"}}` }, says: "query-sev"},
		"refused": {ask: func(*pausedQEMU) AskOwner {
			return func(context.Context, string, *launch.SEVMeasurement) (*launch.SEVSecret, error) {
				return nil, errors.New("HTTP 403: not an expected launch")
			}
		}, says: "not an expected launch"},
		"no packet": {ask: func(*pausedQEMU) AskOwner {
			return func(context.Context, string, *launch.SEVMeasurement) (*launch.SEVSecret, error) {
				return &launch.SEVSecret{Header: make([]byte, 51), Secret: make([]byte, 16)}, nil
			}
		}, says: "header is not 52 bytes"},
		"wrong packet": {ask: func(q *pausedQEMU) AskOwner {
			return func(ctx context.Context, at string, m *launch.SEVMeasurement) (*launch.SEVSecret, error) {
				s, err := good(q)(ctx, at, m)
				s.Secret[0] ^= 1
				return s, err
			}
		}, says: "did not take it"},
		"of another launch": {ask: func(q *pausedQEMU) AskOwner {
			return func(ctx context.Context, at string, m *launch.SEVMeasurement) (*launch.SEVSecret, error) {
				s, err := good(q)(ctx, at, m)
				if _, _, again := q.sev.Measure(q.digest); again != nil {
					t.Error(again)
				}
				return s, err
			}
		}, says: "did not take it"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := fakesev.New()
			if err != nil {
				t.Fatal(err)
			}
			p.Begin()
			q := &pausedQEMU{sev: p, state: stateSecret, digest: make([]byte, 32), answers: map[string]string{}}
			if c.change != nil {
				c.change(q)
			}
			ours, theirs := net.Pipe()
			ended := make(chan struct{})
			go func() { q.serve(theirs); close(ended) }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			client, err := qmp.New(ctx, ours, func(qmp.Event) {})
			if err != nil {
				t.Fatal(err)
			}
			ask := good(q)
			if c.ask != nil {
				ask = c.ask(q)
			}
			err = handSecret(ctx, client, &launch.SNPParams{SecretService: url}, ask)
			_ = client.Close()
			<-ended
			if c.says == "" {
				if err != nil || !q.running || !bytes.Equal(q.got, table) {
					t.Errorf("%v; running: %t, secret %q", err, q.running, q.got)
				}
				if want := []string{"qmp_capabilities", "query-sev", "query-sev-launch-measure", "sev-inject-launch-secret", "cont"}; !slices.Equal(q.said, want) {
					t.Errorf("%q, want %q", q.said, want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if q.running || q.got != nil {
				t.Error("the guest runs, or has a secret")
			}
		})
	}
}

// TestOwnersFiles: QEMU reads certificate and session in base64, under its own uid.
func TestOwnersFiles(t *testing.T) {
	in := new(inputs)
	defer in.close()
	p := &launch.SNPParams{DHCert: bytes.Repeat([]byte{1}, launch.SEVDHCertSize), Session: bytes.Repeat([]byte{2}, launch.SEVSessionSize)}
	if err := in.ownerFiles(p); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{p.DHCert, p.Session} {
		b, err := io.ReadAll(in.files[i])
		if err != nil {
			t.Fatal(err)
		}
		got, err := base64.StdEncoding.DecodeString(string(b))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("file %d: %v", i, err)
		}
		if fi, err := in.files[i].Stat(); err != nil || fi.Mode().Perm()&0o004 == 0 {
			t.Errorf("file %d cannot be opened anew by another uid (%v)", i, err)
		}
		if _, err := in.files[i].WriteAt([]byte("x"), 0); err == nil {
			t.Errorf("file %d can be written", i)
		}
	}
	if in.paths.Hardware.DHCert == "" || in.paths.Hardware.Session == "" || in.paths.Hardware.DHCert == in.paths.Hardware.Session {
		t.Errorf("%+v", in.paths.Hardware)
	}
}

// TestQEMUKnowsTheSecretsCommands asks a real QEMU, without SEV: it knows the commands
// and their arguments, and says so of one that it does not know.
func TestQEMUKnowsTheSecretsCommands(t *testing.T) {
	q := askQEMU(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for command, c := range map[string]struct {
		arguments any
		says      string
	}{
		"query-sev-launch-measure": {nil, "SEV launch measurement is not available"},
		"sev-inject-launch-secret": {map[string][]byte{"packet-header": make([]byte, 52), "secret": make([]byte, 16)}, "SEV not enabled"},
	} {
		_, err := q.c.Execute(ctx, command, c.arguments)
		var refused *qmp.Error
		if !errors.As(err, &refused) || refused.Class != "GenericError" || !strings.Contains(refused.Desc, c.says) {
			t.Errorf("%s: %v, want %q", command, err, c.says)
		}
		if _, err = q.c.Execute(ctx, command, map[string]string{"no-such-argument": "x"}); err == nil || strings.Contains(err.Error(), c.says) {
			t.Errorf("%s takes anything: %v", command, err)
		}
	}
	if _, err := launchMeasurement(ctx, q.c); err == nil || !strings.Contains(err.Error(), "state") {
		t.Errorf("a machine without SEV: %v", err)
	}
}
