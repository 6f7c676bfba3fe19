package verifier

import (
	"bytes"
	"encoding/hex"
	"maps"
	"time"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	tdxverifier "github.com/cofferproject/coffer/tee/tdx/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// UnprovenTDXv2 names version 2 of az-tdx-vtpm in allow_unproven: the outside
// vectors are version 1 of it, and version 2 of az-snp-vtpm.
const UnprovenTDXv2 = "az-tdx-vtpm-v2"

// NewTDX makes the verifier of az-tdx-vtpm.
func NewTDX(cfg verify.Config, o Options) (*Verifier, error) {
	q, err := intel.New(cfg)
	if err != nil {
		return nil, err
	}
	return newVerifier(azure.TDX, cfg, o, &tdxHardware{q}), nil
}

type tdxHardware struct{ quotes *intel.Verifier }

func (t *tdxHardware) verify(e *azure.Evidence, h *azure.HCL, now time.Time, res *verify.Result) ([]byte, error) {
	q, err := tdxverifier.VerifyQuote(t.quotes, azure.TDX+"-verifier", e.TDQuote, now, res)
	if err != nil {
		return nil, err
	}
	td := q.TD
	if err := sameTD(h.Hardware, td); err != nil {
		return nil, err
	}
	res.Checked("TDREPORT", hex.EncodeToString(td.MRTD[:]), "TD quote")
	maps.Copy(res.Claims, tdxverifier.Claims(q, nil))
	return td.ReportData[:], nil
}

// Offsets in a TDREPORT (Intel TDX module ABI, TDREPORT_STRUCT).
const (
	tdReportData = 128
	tdTCBInfo    = 256 + 8
	tdInfo       = 512
)

// sameTD compares the TDREPORT, which only its own machine can check, with the
// quote that was made of it.
func sameTD(report []byte, td *quote.TD) error {
	fields := []struct {
		name string
		off  int
		want []byte
	}{
		{"report data", tdReportData, td.ReportData[:]},
		{"TEE TCB SVN", tdTCBInfo, td.TCBSVN[:]},
		{"MRSEAM", tdTCBInfo + 16, td.MRSEAM[:]},
		{"MRSIGNERSEAM", tdTCBInfo + 64, td.MRSignerSEAM[:]},
		{"SEAM attributes", tdTCBInfo + 112, td.SEAMAttributes[:]},
		{"TD attributes", tdInfo, td.TDAttributes[:]},
		{"XFAM", tdInfo + 8, td.XFAM[:]},
		{"MRTD", tdInfo + 16, td.MRTD[:]},
		{"MRCONFIGID", tdInfo + 64, td.MRConfigID[:]},
		{"MROWNER", tdInfo + 112, td.MROwner[:]},
		{"MROWNERCONFIG", tdInfo + 160, td.MROwnerConfig[:]},
	}
	for i := range td.RTMR {
		fields = append(fields, struct {
			name string
			off  int
			want []byte
		}{"RTMR " + string('0'+rune(i)), tdInfo + 208 + 48*i, td.RTMR[i][:]})
	}
	for _, f := range fields {
		if got := report[f.off : f.off+len(f.want)]; !bytes.Equal(got, f.want) {
			return verify.Mismatch(ReasonTDReport, azure.TDX+"-verifier", "TDREPORT: "+f.name, hex.EncodeToString(got), hex.EncodeToString(f.want), "TD quote")
		}
	}
	return nil
}
