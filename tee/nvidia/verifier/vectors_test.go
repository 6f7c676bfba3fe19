package verifier

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/dice"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/rim"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

// recorded is when the vectors' chains are judged.
var recorded = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// vectorNonce is what the recorded report was made for.
const vectorNonce = "87d8e24ab336adafe228d49e83d745f6dba4ae505372b6a5704820856b343fec"

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "nvidia"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorDevice is the recorded Hopper; hexReport takes the report as it is in
// the file.
func vectorDevice(t testing.TB, hexReport bool) nvidia.Device {
	text := strings.TrimSpace(string(vector(t, "hopper_coco_report1.txt")))
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	d := nvidia.NewDevice("HOPPER", "", b, vector(t, "hopper_coco_certs1.txt"))
	if hexReport {
		d.Report = text
	}
	return d
}

func vectorInput(t testing.TB, devices ...nvidia.Device) *verify.Input {
	nonce, err := hex.DecodeString(vectorNonce)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(nvidia.Evidence{Devices: devices})
	if err != nil {
		t.Fatal(err)
	}
	// The session's hash is longer; the device took its first 32 bytes.
	return &verify.Input{Evidence: b, ReportData: append(nonce, make([]byte, 16)...), Now: recorded}
}

func newVerifier(t testing.TB, c verify.Config) *Verifier {
	t.Helper()
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A report of a GPU in somebody else's guest, with its chain to the root.
func TestHopper(t *testing.T) {
	v := newVerifier(t, verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	for _, asHex := range []bool{false, true} {
		out, err := v.Verify(vectorInput(t, vectorDevice(t, asHex)))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 1 || out[0].Class != verify.ClassGPU || out[0].TEE != "nvidia" || len(out[0].Unproven) != 0 || out[0].Simulated {
			t.Fatalf("%+v", out)
		}
		c := out[0].Claims
		m, _ := c["measurements"].(map[string]any)
		cfg, _ := c["config"].(map[string]any)
		if len(m) != 64 || m["2"] != "b558fdac9af53b91ff3bdb06ff589859d6fbc1050d875c88329347f24ff7b3d11ac53688ba56db03cf8751913107e0db" {
			t.Errorf("measurements: %v", m)
		}
		for name, want := range map[string]any{
			"arch": "Hopper", "uuid": "unknown", "report_data": vectorNonce, "x-nvidia-gpu-arch-check": true, "x-nvidia-gpu-driver-version": "580.95.05",
			"x-nvidia-gpu-vbios-version": "96.00.74.00.1A", "x-nvidia-gpu-attestation-report-nonce-match": true, "hwmodel": "GH100 A01 GSP BROM",
			"x-nvidia-gpu-attestation-report-signature-verified": true, "ueid": "706537633744677806391970670929077420064002181513",
		} {
			if c[name] != want {
				t.Errorf("claim %s: %v, not %v", name, c[name], want)
			}
		}
		for name, want := range map[string]any{
			"driver_version": "580.95.05", "vbios_version": "96.00.74.00.1a", "chip_sku": "882", "chip_sku_mod": "0", "project": "1010",
			"project_sku": "0200", "project_sku_mod": "0000", "board_id": "b1030000", "gpu_info": "8001000000000000", "cpr_info": "00c00100",
			"nvdec0_status": "disabled", "protected_pcie_status": "55", "opaque_data_version": uint64(1), "feature_flag": "SPT",
			"fwid": "f1ae7d0093a3f5689cced58045c9744f94eb2aa4ddca88135197fb41a7be45576c2881cf920e2cbcc090b1cb921f7b2d",
		} {
			if cfg[name] != want {
				t.Errorf("config %s: %v, not %v", name, cfg[name], want)
			}
		}
		if counts, _ := cfg["measurement_count"].(map[string]any); len(counts) != 64 || counts["3"] != uint32(4) {
			t.Errorf("measurement_count: %v", cfg["measurement_count"])
		}
	}
}

// Nothing says that the chain was not revoked: strict verifiers demand it.
func TestHopperWithoutRevocationLists(t *testing.T) {
	_, err := newVerifier(t, verify.Config{Kind: verify.Production}).Verify(vectorInput(t, vectorDevice(t, false)))
	d, ok := denial.As(err)
	if !ok || d.Reason != verify.ReasonCollateralMissing || !strings.Contains(d.Detail, "https://crl.ndis.nvidia.com/crl/l2-gh100.crl") {
		t.Errorf("%v", err)
	}
}

// The chain of another device verifies by itself, and names the firmware that
// the other implementation's tests expect of it.
func TestHopperChain(t *testing.T) {
	v := newVerifier(t, verify.Config{Kind: verify.Production})
	c, err := v.newChain(vector(t, "hopper_cert_chain_case1.txt"), recorded)
	if err != nil {
		t.Fatal(err)
	}
	const want = "f5c384aebb579217a2c66b17ed0f28e6a9b8d639041acd7b4721cec004f7275494ba94bb5cdfdb3055ee051762b1f75d"
	if have := hex.EncodeToString(c.identity.FWIDs[0]); have != want {
		t.Errorf("firmware %s", have)
	}
	// Case 2 is the root alone.
	if _, err := v.newChain(vector(t, "hopper_cert_chain_case2.txt"), recorded); err == nil {
		t.Error("a root alone is a chain")
	}
	certs, err := certchain.ParsePEM(vector(t, "hopper_cert_chain_case2.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dice.Of(certs[0]); err == nil {
		t.Error("the root has a firmware identity")
	}
}

// TestHopperVBIOSManifest holds the recorded report against NVIDIA's own
// manifest of its VBIOS, where somebody has put it (tee/nvidia/rim).
func TestHopperVBIOSManifest(t *testing.T) {
	dir := os.Getenv("COFFER_NVIDIA_RIMS")
	if dir == "" {
		t.Skip("COFFER_NVIDIA_RIMS names no folder with .swidtag files")
	}
	tag, err := os.ReadFile(filepath.Join(dir, "1010_0200_882_960074001A_PROD.swidtag"))
	if err != nil {
		t.Fatal(err)
	}
	const origin = rimService + "NV_GPU_VBIOS_1010_0200_882_960074001A"
	in := vectorInput(t, vectorDevice(t, false))
	if o, err := Origins(in.Evidence, nil); err != nil || !slices.Contains(o, origin) || !slices.Contains(o, rimService+"NV_GPU_DRIVER_GH100_580.95.05") {
		t.Errorf("origins %v, %v", o, err)
	}
	in.Now = time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC)
	cfg := verify.Config{
		Kind: verify.Production, AllowUnproven: []string{UnprovenRIM}, InsecureSkipRevocation: true,
		Collateral: collateral.NewSet(&collateral.Item{Origin: origin, Body: tag, Fetched: in.Now}),
	}
	v := newVerifier(t, cfg)
	out, err := v.Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	c := out[0].Claims
	if c["x-nvidia-gpu-vbios-rim-version-match"] != true || c["x-nvidia-gpu-vbios-rim-signature-verified"] != true || c["measres"] != nil {
		t.Errorf("%v", c)
	}
	in.Now = recorded // the signer's certificate ended in 2025
	if _, err := v.Verify(in); reason(err) != verify.ReasonCollateralExpired {
		t.Errorf("an expired manifest: %v", err)
	}
	// The recorded GPU shows another value than its manifest at one place, 9, as
	// others have seen too; everything else fits.
	m, err := rim.Parse(tag)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(vector(t, "hopper_coco_report1.txt"))))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := spdm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	active, differ := 0, []int{}
	for _, g := range m.Golden {
		have, _ := rep.Value(uint8(g.ReportIndex()))
		if !g.Active || g.Index == nvdecMeasurement {
			continue
		}
		active++
		if !slices.ContainsFunc(g.Values, func(v []byte) bool { return bytes.Equal(v, have) }) {
			differ = append(differ, g.Index)
		}
	}
	if active != 12 || !slices.Equal(differ, []int{9}) {
		t.Errorf("%d compared, different: %v", active, differ)
	}
}

func reason(err error) denial.Reason {
	if d, ok := denial.As(err); ok {
		return d.Reason
	}
	return ""
}
