package run

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/tee/collateral"
)

// platformValues are the reference values that a hardware's vendor publishes of
// his own firmware, by TEE: the only ones that simulated hardware may bring along.
// What the owner measures is not among them.
var platformValues = map[string][]string{
	"snp":         {"snp_bootloader", "snp_microcode", "snp_snp_svn", "snp_tee_svn", "snp_smt_enabled", "snp_tsme_enabled", "snp_guest_abi_major", "snp_guest_abi_minor", "snp_single_socket", "snp_smt_allowed"},
	"tdx":         {"xfam"},
	"cca":         {"cca_platform_implementation_id", "cca_platform_sw_components", "cca_platform_config"},
	"nitro":       {},
	"az-snp-vtpm": {"tcb_bootloader", "tcb_microcode", "tcb_snp", "tcb_tee", "smt_enabled", "tsme_enabled", "abi_major", "abi_minor", "single_socket", "smt_allowed"},
}

// registerSimulation lets the trustee accept this machine's simulated hardware in
// the simulated namespace: its root, and what its vendor would publish.
func registerSimulation(ctx context.Context, c *trusteeclient.Client, ns *trusteeclient.Namespaced, tee launch.TEE, sim *nodeapi.Simulation) error {
	if sim == nil {
		return nil
	}
	if sim.TEE != string(tee) {
		return fmt.Errorf("the launcher simulates %.40q, not %s", sim.TEE, tee)
	}
	cert, err := x509.ParseCertificate(sim.Root)
	if err != nil {
		return fmt.Errorf("the launcher's simulated root: %w", err)
	}
	if _, err := ns.AddRoot(ctx, tee.Wire(), cert); err != nil {
		return fmt.Errorf("registering the simulated root with the trustee: %w", err)
	}
	if len(sim.Collateral) > 0 {
		if err := checkSimulatedCollateral(sim.Collateral); err != nil {
			return err
		}
		if _, err := c.ImportCollateral(ctx, sim.Collateral); err != nil {
			return fmt.Errorf("giving the simulated hardware's collateral to the trustee: %w", err)
		}
	}
	if len(sim.Platform) == 0 {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(sim.Platform)) {
		if !slices.Contains(platformValues[tee.Wire()], n) {
			return fmt.Errorf("the launcher's simulated hardware brings a reference value %.80q, which is not its vendor's to give", n)
		}
	}
	b := &refvalue.Bundle{Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: "coffer-simhw"}, Values: sim.Platform}
	doc, err := b.Encode()
	if err != nil {
		return err
	}
	if _, err := ns.RegisterReferenceValues(ctx, "coffer-simhw-"+tee.Wire(), doc); err != nil {
		return fmt.Errorf("registering the simulated hardware's reference values with the trustee: %w", err)
	}
	return nil
}

// simulatedOrigins is the domain of the origins of simulated hardware's collateral;
// it never resolves.
const simulatedOrigins = ".simhw.invalid"

// checkSimulatedCollateral refuses what simulated hardware has no business with:
// the trustee keeps collateral for all namespaces, and a launcher that named a
// vendor's origin would replace that vendor's revocation list in production.
func checkSimulatedCollateral(bundle []byte) error {
	set, err := collateral.Parse(bundle)
	if err != nil {
		return fmt.Errorf("the simulated hardware's collateral: %w", err)
	}
	for _, it := range set.Items() {
		u, err := url.Parse(it.Origin)
		if err != nil || !strings.HasSuffix(u.Host, simulatedOrigins) {
			return fmt.Errorf("the launcher's simulated hardware brings collateral of %.80q, which is not below %s", it.Origin, simulatedOrigins)
		}
	}
	return nil
}
