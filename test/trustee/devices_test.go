package trustee_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
	nvidiaattester "github.com/cofferproject/coffer/tee/nvidia/attester"
	nvidiasim "github.com/cofferproject/coffer/tee/nvidia/sim"
	"github.com/cofferproject/coffer/tee/sample"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

const gpuNote = "simulated GPU of a test"

// collector asks a simulated GPU as the helper asks real ones.
type collector struct{ gpu *nvidiasim.GPU }

func (c collector) Collect(_ context.Context, nonce [nvidia.NonceSize]byte) ([]byte, error) {
	return c.gpu.Evidence(nonce[:], gpuNote)
}

// one is a guest with the release attester around one GPU.
func one(gpu *nvidiasim.GPU) devices {
	return devices{"nvidia": func() (keyholder.Attester, error) {
		a, err := nvidiaattester.New(func() (int, error) { return 1, nil }, collector{gpu})
		if err != nil {
			return nil, err
		}
		return a, nil
	}}
}

// forger gives whatever evidence it likes: what a host could do if it owned the
// helper.
type forger struct {
	tee      string
	evidence func(reportData []byte) ([]byte, error)
}

func (f forger) TEE() string                   { return f.tee }
func (forger) RequestExtra() *kbs.RequestExtra { return nil }
func (forger) Close() error                    { return nil }
func (f forger) Evidence(_ context.Context, rd []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	return f.evidence(rd)
}

func forged(tee string, evidence func(reportData []byte) ([]byte, error)) devices {
	return devices{tee: func() (keyholder.Attester, error) { return forger{tee, evidence}, nil }}
}

// TestDevicesBesideTheCPU has a pod that demands a GPU meet a trustee that knows
// its vendor: the key holder makes composite evidence, the token speaks of both,
// and whatever is wrong with the device keeps the secret back, with its reason.
func TestDevicesBesideTheCPU(t *testing.T) {
	s, c := start(t)
	ctx, n, ca := t.Context(), c.Namespace("sim"), tpmtest.NewCA(t, "machine")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gpu, err := nvidiasim.New(time.Now())
	must(nil, err)
	stranger, err := nvidiasim.New(time.Now())
	must(nil, err)
	items, err := gpu.Collateral(time.Now())
	must(nil, err)
	bundle, err := collateral.NewSet(items...).Encode()
	must(nil, err)
	refs, err := json.Marshal(tpmtest.References())
	must(nil, err)
	must(n.AddEKRoot(ctx, ca.Root))
	must(n.AddRoot(ctx, "nvidia", gpu.Root()))
	must(c.ImportCollateral(ctx, bundle))
	must(n.RegisterReferenceValues(ctx, "build", refs))
	must(n.AllowUnproven(ctx, []string{"nvidia-rim"}))
	must(n.PutResource(ctx, "default/db/password", []byte("hunter2")))

	doc := document(t, n, s.Client().CAPEM, "pod with a GPU", "nvidia")
	samples := document(t, n, s.Client().CAPEM, "pod with a sample", sample.DeviceWireName)
	plain := document(t, n, s.Client().CAPEM, "pod without")
	var digests []string
	for _, d := range [][]byte{doc, samples, plain} {
		sum := sha256.Sum256(d)
		digests = append(digests, "sha256:"+hex.EncodeToString(sum[:]))
	}
	must(n.Bind(ctx, "default/db/password", trusteeapi.Binding{Initdata: digests}))
	ask := func(t *testing.T, doc []byte, beside devices) error {
		t.Helper()
		b, err := get(t, runPod(t, ca, doc, beside), "kbs:///default/db/password")
		if err == nil && string(b) != "hunter2" {
			t.Errorf("the secret is %q", b)
		}
		return err
	}

	must(nil, ask(t, doc, one(gpu)))
	l, err := n.Attestations(ctx, trusteeclient.AttestationFilter{Initdata: digests[0], Outcome: trusteeapi.OutcomeGranted})
	if err != nil || len(l) == 0 {
		t.Fatalf("%+v, %v", l, err)
	}
	var got []string
	for _, a := range l[0].Appraisals {
		got = append(got, a.Submod+" "+a.TEE)
	}
	if want := "cpu0 tpm, gpu0 nvidia"; strings.Join(got, ", ") != want {
		t.Errorf("the token speaks of %v, not %s", got, want)
	}
	// A GPU that nobody asked for is not attested and keeps nothing back.
	must(nil, ask(t, plain, one(gpu)))

	evidence := func(reportData []byte, change func(e *nvidia.Evidence) error) ([]byte, error) {
		b, err := gpu.Evidence(reportData[:nvidia.NonceSize], gpuNote)
		if err != nil {
			return nil, err
		}
		e, err := nvidia.Parse(b)
		if err != nil {
			return nil, err
		}
		if err := change(e); err != nil {
			return nil, err
		}
		return json.Marshal(e)
	}
	for name, c := range map[string]struct {
		doc    []byte
		beside devices
		want   []string // what the refusal says
	}{
		"none":                {doc, devices{"nvidia": func() (keyholder.Attester, error) { return nil, fmt.Errorf("nothing: %w", attest.ErrNotPresent) }}, []string{"device-missing", "nvidia"}},
		"no attester":         {doc, nil, []string{"device-missing", "no attester"}},
		"no helper":           {doc, devices{"nvidia": func() (keyholder.Attester, error) { return nil, errors.New("no helper") }}, []string{"device-evidence-failed", "no helper"}},
		"another machine's":   {doc, one(stranger), []string{"nvidia-chain-untrusted"}},
		"a device left out":   {doc, devices{"nvidia": func() (keyholder.Attester, error) { return two(gpu) }}, []string{"device-evidence-failed", "the kernel sees 2"}},
		"a silent device":     {doc, forged("nvidia", func([]byte) ([]byte, error) { return nil, errors.New("the device does not answer") }), []string{"device-evidence-failed", "does not answer"}},
		"another kind":        {doc, devices{"nvidia": func() (keyholder.Attester, error) { return forger{tee: "hygondcu"}, nil }}, []string{"device-evidence-failed", "hygondcu"}},
		"not JSON":            {doc, forged("nvidia", func([]byte) ([]byte, error) { return []byte(`{}{`), nil }), []string{"device-evidence-failed", "not JSON"}},
		"oversized":           {doc, forged("nvidia", func([]byte) ([]byte, error) { return []byte(`"` + strings.Repeat("x", kbs.MaxAdditional) + `"`), nil }), []string{"device-evidence-too-large"}},
		"no class of devices": {samples, forged(sample.DeviceWireName, func(rd []byte) ([]byte, error) { return json.Marshal(sample.Evidence{SVN: "2", ReportData: rd}) }), []string{"tee-unsupported"}},
		"another nonce": {doc, forged("nvidia", func(rd []byte) ([]byte, error) {
			rd[0] ^= 1
			return gpu.Evidence(rd[:nvidia.NonceSize], gpuNote)
		}), []string{"report-data-mismatch"}},
		"a device twice": {doc, forged("nvidia", func(rd []byte) ([]byte, error) {
			return evidence(rd, func(e *nvidia.Evidence) error { e.Devices = append(e.Devices, e.Devices[0]); return nil })
		}), []string{"nvidia-device-repeated"}},
		"a bent report": {doc, forged("nvidia", func(rd []byte) ([]byte, error) {
			return evidence(rd, func(e *nvidia.Evidence) error {
				b, err := e.Devices[0].ReportBytes()
				if err == nil {
					b[60] ^= 1
					e.Devices[0].Report = hex.EncodeToString(b)
				}
				return err
			})
		}), []string{"nvidia-report-signature"}},
		"a class that is not allowed": {doc, forged("nvidia", func(rd []byte) ([]byte, error) {
			return evidence(rd, func(e *nvidia.Evidence) error { e.Devices[0].Arch = "LS10"; return nil })
		}), []string{"unproven-verifier", "nvidia-switch"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := ask(t, c.doc, c.beside)
			if err == nil {
				t.Fatal("the secret was released")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %q in it", err, w)
				}
			}
		})
	}
	// Without leave for manifests the device's status is not good enough.
	must(n.AllowUnproven(ctx, nil))
	if err := ask(t, doc, one(gpu)); err == nil || !strings.Contains(err.Error(), "status-unacceptable") || !strings.Contains(err.Error(), "gpu0") {
		t.Errorf("a GPU that nothing vouches for: %v", err)
	}
}

// two is one GPU where the kernel sees two.
func two(gpu *nvidiasim.GPU) (keyholder.Attester, error) {
	a, err := nvidiaattester.New(func() (int, error) { return 2, nil }, collector{gpu})
	if err != nil {
		return nil, err
	}
	return a, nil
}
