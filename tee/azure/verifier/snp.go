package verifier

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/snp"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// NewSNP makes the verifier of az-snp-vtpm.
func NewSNP(cfg verify.Config, o Options) (*Verifier, error) {
	r, err := snpverifier.NewReports(cfg, azure.SNP+"-verifier")
	if err != nil {
		return nil, err
	}
	return newVerifier(azure.SNP, cfg, o, &snpHardware{r}), nil
}

type snpHardware struct{ reports *snpverifier.Reports }

func (s *snpHardware) verify(e *azure.Evidence, h *azure.HCL, now time.Time, res *verify.Result) ([]byte, error) {
	certs := []snp.Cert{{Type: snp.CertVCEK, Data: e.VCEK}}
	if len(e.ASK) > 0 {
		certs = append(certs, snp.Cert{Type: snp.CertASK, Data: e.ASK})
	}
	r, err := s.reports.Verify(h.Hardware, certs, now, res)
	if err != nil {
		return nil, err
	}
	snpClaims(r, res.Claims)
	return r.ReportData[:], nil
}

// published are snp's claims that az-snp-vtpm has too; here all are text.
var published = []string{
	"policy_abi_major", "policy_abi_minor", "policy_smt_allowed", "policy_migrate_ma", "policy_debug_allowed", "policy_single_socket",
	"reported_tcb_bootloader", "reported_tcb_tee", "reported_tcb_snp", "reported_tcb_microcode", "platform_tsme_enabled", "platform_smt_enabled",
}

func snpClaims(r *snp.Report, out map[string]any) {
	all := snpverifier.Claims(r)
	for _, name := range published {
		out[name] = fmt.Sprint(all[name])
	}
	out["measurement"] = base64.StdEncoding.EncodeToString(r.Measurement[:])
	out["chip_id"] = all["chip_id"]
}
