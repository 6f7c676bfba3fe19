package verifier

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/tee/verify"
)

// claims fills in the published claims of a local verification, then those that
// NVIDIA's own service gives under the same names and that follow from what was
// verified here.
func (d *device) claims() {
	c, o := d.res.Claims, d.rep.Opaque
	m := make(map[string]any, len(d.rep.Blocks))
	for _, b := range d.rep.Blocks {
		m[strconv.Itoa(int(b.Index))] = hex.EncodeToString(b.Value)
	}
	c["arch"], c["uuid"], c["measurements"], c["config"] = string(d.arch), d.dev.UUID, m, o.Claims()

	device := "gpu"
	bios := strings.ToUpper(o.Text(spdm.FieldVBIOSVersion))
	if d.arch == nvidia.LS10 {
		device = "switch"
		c[d.claim("bios-version")] = bios
		if p := o.PDIs(spdm.FieldSwitchPDI); len(p) == 1 {
			c[d.claim("pdi")] = p[0]
		}
		if p := o.PDIs(spdm.FieldSwitchGPUPDIs); p != nil {
			c[d.claim("gpu-pdis")] = anys(p)
		}
	} else {
		c[d.claim("driver-version")] = o.Text(spdm.FieldDriverVersion)
		c[d.claim("vbios-version")] = bios
		if p := o.PDIs(spdm.FieldSwitchPDI); p != nil {
			c[d.claim("switch-pdis")] = anys(p)
		}
	}
	c["x-nvidia-device-type"] = device
	c["hwmodel"] = d.chain.certs[1].Subject.CommonName
	c["ueid"] = d.chain.certs[0].SerialNumber.String()
	c["oemid"] = "5703" // NVIDIA's private enterprise number
	for _, s := range []string{"arch-check", "attestation-report-parsed", "attestation-report-signature-verified", "attestation-report-cert-chain-fwid-match"} {
		c[d.claim(s)] = true
	}
	c[d.claim("attestation-report-cert-chain")] = certClaims(d.chain.to, d.rev)
}

// certClaims speaks of a chain that was verified. The status by OCSP is good
// only if a responder said so of every certificate that has one.
func certClaims(expires time.Time, r revoked) map[string]any {
	ocsp := "unknown"
	if r.ocspGood {
		ocsp = "good"
	}
	return map[string]any{
		"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": ocsp, "x-nvidia-cert-expiration-date": expires.UTC().Format(time.RFC3339),
		"coffer-revocation": r.claim(),
	}
}

func anys(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}

// What a system of protected PCIe consists of.
const (
	ppcieGPUs     = 8
	ppcieSwitches = 4
)

// ppcie gives a result if the devices are such a system: eight GPUs that name
// the same four switches, four switches that are these and name the same eight
// GPUs.
func (v *Verifier) ppcie(devices []*verify.Result) *verify.Result {
	named, switches, gpus := map[string]bool{}, map[string]bool{}, map[string]bool{}
	nGPU, nSwitch := 0, 0
	for _, r := range devices {
		switch r.Class {
		case verify.ClassGPU:
			nGPU++
			if !exactly(r.Claims["x-nvidia-gpu-switch-pdis"], ppcieSwitches, named) {
				return nil
			}
		case verify.ClassSwitch:
			nSwitch++
			pdi, _ := r.Claims["x-nvidia-switch-pdi"].(string)
			if pdi == "" || switches[pdi] || !exactly(r.Claims["x-nvidia-switch-gpu-pdis"], ppcieGPUs, gpus) {
				return nil
			}
			switches[pdi] = true
		}
	}
	if nGPU != ppcieGPUs || nSwitch != ppcieSwitches || len(named) != ppcieSwitches || len(gpus) != ppcieGPUs {
		return nil
	}
	for s := range switches {
		// A switch may spell its own identifier from the last byte to the first.
		if !named[s] && !named[reversed(s)] {
			return nil
		}
	}
	r := &verify.Result{
		TEE: nvidia.WireName, Class: ClassPPCIE, Simulated: v.cfg.Kind == verify.InsecureSimulated, SimulationNote: devices[0].SimulationNote,
		Claims: map[string]any{"switch_count": ppcieSwitches, "gpu_count": ppcieGPUs}, Unproven: []string{UnprovenSwitch},
	}
	r.Checked("topology", "8 GPUs and 4 switches name each other", "attestation reports")
	return r
}

// reversed turns the bytes of hex digits around.
func reversed(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		return s
	}
	slices.Reverse(b)
	return hex.EncodeToString(b)
}

// exactly adds identifiers to all; it is false unless there are n different
// ones beside the empty places.
func exactly(v any, n int, all map[string]bool) bool {
	list, _ := v.([]any)
	own := map[string]bool{}
	for _, x := range list {
		s, _ := x.(string)
		if strings.Trim(s, "0") == "" {
			continue
		}
		if own[s] {
			return false
		}
		own[s], all[s] = true, true
	}
	return len(own) == n
}
