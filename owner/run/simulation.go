package run

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"

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
	"sgx":         {},
	"az-snp-vtpm": {"tcb_bootloader", "tcb_microcode", "tcb_snp", "tcb_tee", "smt_enabled", "tsme_enabled", "abi_major", "abi_minor", "single_socket", "smt_allowed"},
}

// registerSimulation lets the trustee accept this machine's simulated hardware in
// the simulated namespace: its root, and what its vendor would publish; and the
// same of the devices beside it that were asked for.
func registerSimulation(ctx context.Context, c *trusteeclient.Client, ns *trusteeclient.Namespaced, tee launch.TEE, devices []string, sim *nodeapi.Simulation) error {
	if sim == nil {
		return nil
	}
	if sim.TEE != string(tee) {
		return fmt.Errorf("the launcher simulates %.40q, not %s", sim.TEE, tee)
	}
	if err := registerVendor(ctx, c, ns, tee.Wire(), sim); err != nil {
		return err
	}
	for i := range sim.Devices {
		d := &sim.Devices[i]
		if !slices.Contains(devices, d.TEE) {
			return fmt.Errorf("the launcher simulates a device %.40q that nobody asked for", d.TEE)
		}
		if err := registerVendor(ctx, c, ns, d.TEE, d); err != nil {
			return err
		}
	}
	return nil
}

// registerVendor tells the trustee of one simulated vendor.
func registerVendor(ctx context.Context, c *trusteeclient.Client, ns *trusteeclient.Namespaced, tee string, sim *nodeapi.Simulation) error {
	cert, err := x509.ParseCertificate(sim.Root)
	if err != nil {
		return fmt.Errorf("the launcher's simulated root: %w", err)
	}
	if err := ownCollateral(sim.Collateral, cert); err != nil {
		return err
	}
	if _, err := ns.AddRoot(ctx, tee, cert); err != nil {
		return fmt.Errorf("registering the simulated root with the trustee: %w", err)
	}
	if len(sim.Collateral) > 0 {
		if _, err := c.ImportCollateral(ctx, sim.Collateral); err != nil {
			return fmt.Errorf("giving the simulated hardware's collateral to the trustee: %w", err)
		}
	}
	if len(sim.Platform) == 0 {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(sim.Platform)) {
		if !slices.Contains(platformValues[tee], n) {
			return fmt.Errorf("the launcher's simulated hardware brings a reference value %.80q, which is not its vendor's to give", n)
		}
	}
	b := &refvalue.Bundle{Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: "coffer-simhw"}, Values: sim.Platform}
	doc, err := b.Encode()
	if err != nil {
		return err
	}
	if _, err := ns.RegisterReferenceValues(ctx, "coffer-simhw-"+tee, doc); err != nil {
		return fmt.Errorf("registering the simulated hardware's reference values with the trustee: %w", err)
	}
	return nil
}

// ownCollateral demands that all items are under the names of this simulated
// root. Collateral counts in every namespace of the trustee, and it is the host
// that gives this: an old revocation list in a vendor's name must not get in.
func ownCollateral(bundle []byte, root *x509.Certificate) error {
	if len(bundle) == 0 {
		return nil
	}
	set, err := collateral.Parse(bundle)
	if err != nil {
		return fmt.Errorf("the launcher's simulated hardware: %w", err)
	}
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	fingerprint := hex.EncodeToString(sum[:])
	for _, it := range set.Items() {
		u, err := url.Parse(it.Origin)
		if err != nil || u.Host != fingerprint[:32]+".simhw.invalid" {
			return fmt.Errorf("the launcher's simulated hardware brings collateral %.200q, which is not under the name of its own root", it.Origin)
		}
	}
	return nil
}
