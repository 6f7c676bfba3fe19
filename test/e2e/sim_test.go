package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// simTEE is one TEE that coffer-simhw plays.
type simTEE struct {
	tee string
	// refused names, for each change of the host's, the claim that the refusal
	// must name. What is in no register of the TEE (vCPUs of Nitro and Azure) is
	// refused by nobody.
	refused map[string]string
	// fields are the registers in which each change must show, where that is more
	// than the claim.
	fields []string
	// unproven is what the namespace must allow.
	unproven []string
	// device is a kind of device that the pod demands beside the TEE.
	device string
}

var simTEEs = []simTEE{
	{tee: "snp-sim", refused: map[string]string{
		"kernel": "snp.measurement", "argument": "snp.measurement", "vcpus": "snp.measurement", "initdata": "initdata digest",
	}, device: "nvidia", unproven: []string{"nvidia-rim"}},
	{tee: "tdx-sim", refused: map[string]string{
		"kernel": "tdx.quote.body.rtmr_1", "argument": "tdx.quote.body.rtmr_2", "vcpus": "tdx.quote.body.rtmr_0", "initdata": "initdata digest",
	}},
	{tee: "cca-sim", refused: map[string]string{
		"kernel": "cca.realm.cca-realm-initial-measurement", "argument": "cca.realm.cca-realm-initial-measurement",
		"vcpus": "cca.realm.cca-realm-initial-measurement", "initdata": "initdata digest",
	}},
	{tee: "azure-snp-sim", refused: map[string]string{
		"kernel": "az-snp-vtpm.tpm.pcr11", "argument": "az-snp-vtpm.tpm.pcr11", "initdata": "initdata digest",
	}},
	{tee: "nitro-sim", refused: map[string]string{
		"kernel": "nitro.pcrs.pcr0", "argument": "nitro.pcrs.pcr0", "initdata": "initdata digest",
	}, fields: []string{"nitro.pcrs.pcr0", "nitro.pcrs.pcr1"}, unproven: []string{"nitro"}},
	{tee: "sgx-sim", refused: map[string]string{
		"kernel": "sgx.body.mr_enclave", "argument": "sgx.body.mr_enclave", "vcpus": "sgx.body.mr_enclave", "initdata": "initdata digest",
		"agent": "sgx.body.mr_enclave", "environment": "sgx.body.mr_enclave", "flag": "sgx.body.mr_enclave",
	}},
}

// unprivileged reads off the kernel that the one process of that name, which
// serves the guest, is not root and cannot become it.
func unprivileged(t *testing.T, tr *tracker, name string) {
	t.Helper()
	pids := tr.pids(name)
	if len(pids) != 1 {
		t.Fatalf("%d processes %s, want one", len(pids), name)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "\nUid:\t0\t") || strings.Contains(string(b), "\nGid:\t0\t") {
		t.Errorf("%s serves the guest as root:\n%s", name, b)
	}
	contains(t, "the status of "+name, string(b), "\nNoNewPrivs:\t1\n", "\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n", "\nGroups:\t \n")
}

// TestSimulatedTEEs runs the main job in simulated TEEs: a sealed pod with a
// secret gets it; what the hardware measured of the running machine is what
// `coffer measure` said before; a host that changes anything gets nothing, and
// the owner reads what it was.
func TestSimulatedTEEs(t *testing.T) {
	t.Parallel()
	for _, c := range simTEEs {
		t.Run(c.tee, func(t *testing.T) {
			t.Parallel()
			if c.tee != "snp-sim" && c.tee != "tdx-sim" && c.tee != "sgx-sim" {
				full(t)
			}
			home := shared.newHome(t)
			trustee := shared.startTrustee(t, home, "")
			if c.unproven != nil {
				if _, err := trustee.sim.AllowUnproven(t.Context(), c.unproven); err != nil {
					t.Fatal(err)
				}
			}
			sealing, running := []string{"--tee", c.tee}, []string{"--tee", c.tee}
			if c.device != "" {
				sealing, running = append(sealing, "--attest-device", c.device), append(running, "--sim-device", c.device)
			}
			file := sealedVictim(t, home, sealing...)
			before, launched := measured(t, home, c.tee, file)

			running = append(running, file)
			p := shared.run(t, home, running...)
			tr := track(t, p.cmd.Process.Pid)
			p.waitOutput(fmt.Sprintf("app | secret sha256 %x", sha256.Sum256([]byte("for the victim alone"))))
			contains(t, "what coffer says", p.stderr(), "WARNING: "+c.tee+" is simulated", "of the running "+map[bool]string{false: "QEMU", true: "process"}[launch.TEE(c.tee).Process()])
			unprivileged(t, tr, "coffer-simhw")
			list := shared.ps(t, home)
			if len(list) != 1 || len(list[0].Measured) == 0 {
				t.Fatalf("coffer ps: %+v", list)
			}
			for field, value := range list[0].Measured {
				if before[field] != value {
					t.Errorf("%s: the hardware measured %s, coffer measure said %q", field, value, before[field])
				}
			}
			if code := p.stop(); code != 0 {
				t.Logf("the pod was stopped: exit code %d", code)
			}
			if c.device != "" {
				attestedDevices(t, trustee.sim, c.device)
			}
			released := trustee.releases()
			if released == 0 {
				t.Error("no release in the audit log")
			}
			evil := shared.hostileBin(t)
			for _, change := range []string{"kernel", "argument", "initdata", "vcpus", "agent", "environment", "flag"} {
				want, ok := c.refused[change]
				if !ok {
					continue
				}
				t.Run(change, func(t *testing.T) {
					host := *evil
					host.vars = append([]string{envChange + "=" + change}, evil.vars...)
					p := host.run(t, home, append([]string{"--output", "json"}, running...)...)
					if code := p.wait(); code != 123 {
						t.Errorf("exit code %d, want 123: denied", code)
					}
					if strings.Contains(p.stdout(), "secret sha256") {
						t.Error("the workload has the secret")
					}
					fields := c.fields
					if fields == nil {
						fields = []string{want}
					}
					r := refusalOf(t, p.stderr())
					if !strings.HasSuffix(r.Denial.Claim, want) || r.Denial.Measured == "" || r.Denial.Expected == "" {
						t.Errorf("the refusal is of %q, want %q: %+v", r.Denial.Claim, want, r.Denial)
					}
					r.names(t, change, fields, launched)
					contains(t, "the refusal in words", r.Error, "denied: ", "differs ", " launched")
					t.Log(r.Error)
					if change == "vcpus" {
						foundLater(t, home, r.Denial.RecordID)
					}
				})
			}
			t.Run("a launcher that does not say what it did", func(t *testing.T) {
				if c.tee != "snp-sim" {
					full(t)
				}
				host := *evil
				host.vars = append([]string{envChange + "=argument", envLie + "=1"}, evil.vars...)
				p := host.run(t, home, running...)
				if code := p.wait(); code != 123 {
					t.Errorf("exit code %d, want 123: denied", code)
				}
				contains(t, "the refusal", p.stderr(), "denied: ", "unexplained  "+c.refused["argument"], "no input that coffer knows of explains it (")
				if strings.Contains(p.stderr(), "differs ") {
					t.Error("it names what nobody can know")
				}
				t.Log(p.stderr()[max(0, strings.Index(p.stderr(), "denied: ")):])
			})
			if c.device != "" {
				bentDevices(t, home, running)
			}
			if c.tee == "snp-sim" {
				t.Run("another image on request", func(t *testing.T) { anotherImage(t, home, running) })
			}
			if n := trustee.releases(); n != released {
				t.Errorf("%d releases to a changed machine", n-released)
			}
		})
	}
}

// attestedDevices demands that a token was granted that speaks of the CPU and of a
// device beside it.
func attestedDevices(t *testing.T, n *trusteeclient.Namespaced, device string) {
	t.Helper()
	l, err := n.Attestations(t.Context(), trusteeclient.AttestationFilter{Outcome: trusteeapi.OutcomeGranted, Kind: "attest"})
	if err != nil || len(l) == 0 {
		t.Fatalf("attestations: %+v, %v", l, err)
	}
	a := l[0].Appraisals
	if len(a) != 2 || a[0].Submod != "cpu0" || a[1].TEE != device || a[1].Submod != "gpu0" {
		t.Errorf("the token speaks of %+v", a)
	}
}

// bentDevices runs the pod where the device that it demands is missing, or is
// another vendor's.
func bentDevices(t *testing.T, home string, running []string) {
	for change, want := range map[string][]string{noDevice: {"device-missing", "device nvidia"}, forgedDevice: {"nvidia-chain-untrusted"}} {
		t.Run(change, func(t *testing.T) {
			full(t)
			host := *shared.hostileBin(t)
			host.vars = append([]string{envChange + "=" + change}, host.vars...)
			p := host.run(t, home, running...)
			if code := p.wait(); code != 123 {
				t.Errorf("exit code %d, want 123: denied", code)
			}
			contains(t, "the refusal", p.stderr(), append([]string{"denied: "}, want...)...)
			if strings.Contains(p.stdout(), "secret sha256") {
				t.Error("the workload has the secret")
			}
		})
	}
}

// anotherImage runs the pod in an image that no reference values are registered of:
// nobody is hostile, and what was asked for explains the measurement.
func anotherImage(t *testing.T, home string, running []string) {
	p := shared.run(t, home, append([]string{"--debug-image", "--output", "json"}, running...)...)
	if code := p.wait(); code != 123 {
		t.Errorf("exit code %d, want 123: denied", code)
	}
	l := &refusalOf(t, p.stderr()).Launch
	if len(l.Differences) != 2 || l.Differences[0].Input != "initrd" || l.Differences[1].Input != "command line" || len(l.Differences[1].Changes) == 0 {
		t.Errorf("%+v", l)
	}
	if len(l.Proof) != 1 || !strings.Contains(l.Proof[0].Source, "coffer run has asked for") {
		t.Errorf("%+v", l.Proof)
	}
}

// refusal is what coffer run says last with --output json.
type refusal struct {
	Error  string
	Code   int
	Denial denial.Denial
	Launch struct {
		Differences []struct {
			Input, Expected, Launched string
			Changes, Fields           []string
		}
		Proof []struct {
			Field, Source string
			Launch        launch.Inputs
		}
		Unexplained []any
		Against     *struct {
			Bundle   string
			Launch   launch.Inputs
			Verified bool
		}
		Notes []string
	}
}

func refusalOf(t *testing.T, stderr string) *refusal {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	r := new(refusal)
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), r); err != nil || r.Code != 123 {
		t.Fatalf("%v, code %d: %s", err, r.Code, stderr)
	}
	return r
}

// names checks that the explanation names the changed input and no other, with
// what it was and what it is, and from where it knows.
func (r *refusal) names(t *testing.T, change string, fields []string, was *launch.Inputs) {
	t.Helper()
	l := &r.Launch
	if len(l.Differences) != 1 {
		t.Fatalf("one input was changed: %+v", l)
	}
	d := &l.Differences[0]
	if change == "initdata" {
		if d.Input != "initdata" || d.Expected == d.Launched || d.Launched != r.Denial.Measured {
			t.Errorf("%+v", d)
		}
		return
	}
	if len(l.Unexplained) > 0 || len(l.Proof) != len(fields) || l.Against == nil || !l.Against.Verified || l.Against.Launch != *was {
		t.Fatalf("%+v", l)
	}
	if !slices.Equal(d.Fields, fields) || !strings.Contains(l.Proof[0].Source, "the launcher says") {
		t.Errorf("%+v, %+v", d, l.Proof)
	}
	now := l.Proof[0].Launch
	switch change {
	case "kernel":
		if d.Input != "kernel" || d.Expected != "SHA-256 "+was.Kernel || d.Launched != "SHA-256 "+now.Kernel || now.Kernel == was.Kernel {
			t.Errorf("%+v", d)
		}
		now.Kernel = was.Kernel
	case "argument":
		if d.Input != "command line" || d.Expected != was.Cmdline || d.Launched != was.Cmdline+" evil=1" || !slices.Equal(d.Changes, []string{"evil=1 was added"}) {
			t.Errorf("%+v", d)
		}
		now.Cmdline = was.Cmdline
	case "agent":
		if d.Input != "initrd" || d.Launched != "SHA-256 "+now.Initrd || now.Initrd == was.Initrd {
			t.Errorf("%+v", d)
		}
		now.Initrd = was.Initrd
	case "environment", "flag":
		if d.Input != "command line" || len(d.Changes) != 1 || !strings.HasSuffix(d.Changes[0], " was added") {
			t.Errorf("%+v", d)
		}
		now.Cmdline = was.Cmdline
	case "vcpus":
		if d.Input != "vCPU count" || d.Expected != fmt.Sprint(was.VCPUs) || d.Launched != fmt.Sprint(was.VCPUs+1) {
			t.Errorf("%+v", d)
		}
		now.VCPUs = was.VCPUs
	}
	if now != *was {
		t.Errorf("more than the %s is said to be another: %+v", change, l.Proof)
	}
}

// foundLater explains a refusal when nobody can say any more what was launched:
// vCPU counts are few enough to be tried.
func foundLater(t *testing.T, home, record string) {
	t.Helper()
	var later struct {
		Attestation string
		Launch      measure.Explanation
	}
	if err := json.Unmarshal([]byte(shared.must(t, home, "explain", record, "--output", "json")), &later); err != nil {
		t.Fatal(err)
	}
	l := later.Launch
	if len(l.Differences) != 1 || l.Differences[0].Input != measure.VCPUs || !strings.Contains(l.Proof[0].Source, "found by trying") {
		t.Errorf("%+v", l)
	}
	contains(t, "the attestation's record", shared.must(t, home, "explain", later.Attestation), "values of a launch", "vCPU count", "found by trying")
}

// measured asks coffer measure what will be measured of a pod, and of what.
func measured(t *testing.T, home, tee, file string) (map[string]string, *launch.Inputs) {
	t.Helper()
	var r struct {
		Rows   []struct{ Field, Value string }
		Launch launch.Inputs
	}
	out := shared.must(t, home, "measure", tee, "--from-pod", file, "--registries", shared.registries, "--output", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, row := range r.Rows {
		m[row.Field] = row.Value
	}
	return m, &r.Launch
}
