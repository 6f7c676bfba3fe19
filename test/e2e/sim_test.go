package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// simTEE is one TEE that coffer-simhw plays.
type simTEE struct {
	tee string
	// refused names, for each change of the host's, what the refusal must say.
	refused map[string][]string
	// unproven is what the namespace must allow.
	unproven []string
}

var simTEEs = []simTEE{
	{tee: "snp-sim", refused: map[string][]string{
		"kernel": {"snp.measurement"}, "argument": {"snp.measurement"}, "vcpus": {"snp.measurement"}, "initdata": {"initdata"},
	}},
	{tee: "tdx-sim", refused: map[string][]string{
		"kernel": {"tdx.quote.body.rtmr_1"}, "argument": {"tdx.quote.body.rtmr_2"}, "vcpus": {"tdx.quote.body.rtmr_0"}, "initdata": {"initdata"},
	}},
	{tee: "cca-sim", refused: map[string][]string{"argument": {"cca-realm-initial-measurement"}}},
	{tee: "azure-snp-sim", refused: map[string][]string{"argument": {"pcr11"}}},
	{tee: "nitro-sim", refused: map[string][]string{"argument": {"nitro.pcrs.pcr0"}}, unproven: []string{"nitro"}},
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
			if c.tee != "snp-sim" && c.tee != "tdx-sim" {
				full(t)
			}
			home := shared.newHome(t)
			trustee := shared.startTrustee(t, home, "")
			if c.unproven != nil {
				if _, err := trustee.sim.AllowUnproven(t.Context(), c.unproven); err != nil {
					t.Fatal(err)
				}
			}
			file := sealedVictim(t, home, "--tee", c.tee)
			before := measured(t, home, c.tee, file)

			p := shared.run(t, home, "--tee", c.tee, file)
			tr := track(t, p.cmd.Process.Pid)
			p.waitOutput(fmt.Sprintf("app | secret sha256 %x", sha256.Sum256([]byte("for the victim alone"))))
			contains(t, "what coffer says", p.stderr(), "WARNING: "+c.tee+" is simulated", "of the running QEMU")
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
			released := trustee.releases()
			if released == 0 {
				t.Error("no release in the audit log")
			}
			evil := shared.hostileBin(t)
			for _, change := range []string{"kernel", "argument", "initdata", "vcpus"} {
				want, ok := c.refused[change]
				if !ok {
					continue
				}
				t.Run(change, func(t *testing.T) {
					host := *evil
					host.vars = append([]string{envChange + "=" + change}, evil.vars...)
					p := host.run(t, home, "--tee", c.tee, file)
					if code := p.wait(); code != 123 {
						t.Errorf("exit code %d, want 123: denied", code)
					}
					contains(t, "the refusal", p.stderr(), append([]string{"denied: ", "measured", "expected"}, want...)...)
					if strings.Contains(p.stdout(), "secret sha256") {
						t.Error("the workload has the secret")
					}
					t.Log(p.stderr()[max(0, strings.Index(p.stderr(), "denied: ")):])
				})
			}
			if n := trustee.releases(); n != released {
				t.Errorf("%d releases to a changed machine", n-released)
			}
		})
	}
}

// measured asks coffer measure what will be measured of a pod.
func measured(t *testing.T, home, tee, file string) map[string]string {
	t.Helper()
	var r struct {
		Rows []struct{ Field, Value string }
	}
	out := shared.must(t, home, "measure", tee, "--from-pod", file, "--registries", shared.registries, "--output", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, row := range r.Rows {
		m[row.Field] = row.Value
	}
	return m
}
