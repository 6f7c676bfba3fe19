package sim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// judge asks Intel's Quote Verification Library, through its Python binding.
const judge = `
import base64, datetime, json, sys
import sgx_dcap_quote_verify as qvl
c = json.load(sys.stdin)
r = qvl.verify(c["root"], c["pck"], c["chain"], c["root_crl"], c["pck_crl"], c["tcb"], c["signer"],
               base64.b64decode(c["quote"]), c["qe"], datetime.datetime.fromisoformat(c["now"]))
print(r.pck_certificate_status.name, r.tcb_info_status.name, r.qe_identity_status.name, r.quote_status.name)
`

// Intel's own library gives the verdicts that ours gives on this machine's
// quotes and collateral. It runs where COFFER_QVL_PYTHON names a Python that has
// the package sgx-dcap-quote-verify-python 0.0.3, which is older than TDX 1.5.
func TestIntelsOwnLibraryAgrees(t *testing.T) {
	python := os.Getenv("COFFER_QVL_PYTHON")
	if python == "" {
		t.Skip("COFFER_QVL_PYTHON is not set")
	}
	p := machine(t, Options{})
	td, e := p.TD(), p.Enclave()
	tdx, err := p.QuoteTD(&td, 4)
	if err != nil {
		t.Fatal(err)
	}
	sgx, err := p.QuoteEnclave(&e, 3)
	if err != nil {
		t.Fatal(err)
	}
	const ok, all = "STATUS_OK", "STATUS_OK STATUS_OK STATUS_OK STATUS_"
	for _, c := range []struct {
		o            CollateralOptions
		ours, theirs string // status or reason; theirs begins with
	}{
		{CollateralOptions{}, "UpToDate", all + "OK"},
		{CollateralOptions{Platform: intel.StatusSWHardeningNeeded}, "SWHardeningNeeded", all + "TCB_SW_HARDENING_NEEDED"},
		{CollateralOptions{Platform: intel.StatusConfigurationNeeded}, "ConfigurationNeeded", all + "TCB_CONFIGURATION_NEEDED"},
		{CollateralOptions{Platform: intel.StatusConfigurationAndHardening}, "ConfigurationAndSWHardeningNeeded", all + "TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED"},
		{CollateralOptions{Platform: intel.StatusOutOfDate}, "OutOfDate", all + "TCB_OUT_OF_DATE"},
		{CollateralOptions{Platform: intel.StatusOutOfDateConfiguration}, "OutOfDateConfigurationNeeded", all + "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED"},
		{CollateralOptions{Platform: intel.StatusRevoked}, "dcap-tcb-revoked", all + "TCB_REVOKED"},
		{CollateralOptions{QE: intel.StatusOutOfDate}, "OutOfDate", all + "TCB_OUT_OF_DATE"},
		{CollateralOptions{QE: intel.StatusOutOfDate, Platform: intel.StatusConfigurationNeeded}, "OutOfDateConfigurationNeeded", all + "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED"},
		{CollateralOptions{QE: intel.StatusOutOfDate, Platform: intel.StatusSWHardeningNeeded}, "OutOfDate", all + "TCB_OUT_OF_DATE"},
		{CollateralOptions{QE: intel.StatusOutOfDate, Platform: intel.StatusConfigurationAndHardening}, "OutOfDateConfigurationNeeded", all + "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED"},
		{CollateralOptions{QE: intel.StatusRevoked}, "dcap-tcb-revoked", all + "TCB_REVOKED"},
		{CollateralOptions{AboveMachine: true}, "dcap-tcb-unsupported", all + "TCB_NOT_SUPPORTED"},
		{CollateralOptions{RevokePCK: true}, "dcap-pck-revoked", "STATUS_SGX_PCK_REVOKED"},
		{CollateralOptions{RevokeCA: true}, "dcap-pck-revoked", "STATUS_SGX_INTERMEDIATE_CA_REVOKED"},
		{CollateralOptions{RevokeSigner: true}, "dcap-collateral-signer-revoked", ok + " STATUS_SGX_TCB_SIGNING_CERT_REVOKED"},
		{CollateralOptions{Life: time.Minute, Now: day.Add(-time.Hour)}, "collateral-expired", "STATUS_SGX_CRL_EXPIRED"},
	} {
		for _, q := range []struct {
			raw []byte
			tee uint32
		}{{sgx, quote.SGX}, {tdx, quote.TDX}} {
			r, err := verifier(t, p, c.o).VerifyQuote(q.raw, q.tee, day)
			if err != nil && !strings.Contains(err.Error(), ": "+c.ours+": ") || err == nil && string(r.Status) != c.ours {
				t.Errorf("%+v: ours: %v", c.o, err)
			}
			if got := p.ask(t, python, q.raw, q.tee, c.o); !strings.HasPrefix(got+" ", c.theirs+" ") {
				t.Errorf("%+v, TEE %#x: Intel's library says %s, want %s...", c.o, q.tee, got, c.theirs)
			}
		}
	}
}

// ask gives Intel's verdict on a quote of the machine.
func (p *Platform) ask(t *testing.T, python string, raw []byte, tee uint32, o CollateralOptions) string {
	t.Helper()
	items, err := p.Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	set, cfg := collateral.NewSet(items...), verify.Config{}
	cfg.Collateral = set
	rootCRL, pckCRL, tcb, qe := intel.Origins(p.RootSPKI(), tee, FMSPC, "platform")
	body := func(origin, kind string) string {
		it, err := cfg.Item("test", origin)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "" {
			return string(it.Body)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: it.Body}))
	}
	in, err := json.Marshal(map[string]string{
		"root": string(chainPEM(p.root)), "pck": string(chainPEM(p.pck)), "chain": string(chainPEM(p.ca, p.root)), "signer": string(chainPEM(p.signer, p.root)),
		"root_crl": body(rootCRL, "X509 CRL"), "pck_crl": body(pckCRL, "X509 CRL"), "tcb": body(tcb, ""), "qe": body(qe, ""),
		"quote": base64.StdEncoding.EncodeToString(raw), "now": day.Format("2006-01-02T15:04:05"),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", judge)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
