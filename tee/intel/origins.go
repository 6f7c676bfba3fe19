package intel

import (
	"encoding/hex"
	"strings"

	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// origins spells the canonical origins of collateral: those of Intel's PCS v4,
// and for a simulated machine the same paths below a name of its own that can
// never resolve (RFC 2606), so that two machines' collateral fits in one set.
type origins struct{ api, certificates string }

const (
	intelAPI          = "https://api.trustedservices.intel.com"
	intelCertificates = "https://certificates.trustedservices.intel.com"
)

func originsFor(k verify.Kind, spki string) origins {
	if k == verify.InsecureSimulated {
		base := "https://" + spki[:min(32, len(spki))] + ".simhw.invalid"
		return origins{base, base}
	}
	return origins{intelAPI, intelCertificates}
}

func (o origins) rootCRL() string { return o.certificates + "/IntelSGXRootCA.der" }

func (o origins) pckCRL(ca string) string {
	return o.api + "/sgx/certification/v4/pckcrl?ca=" + ca + "&encoding=der"
}

func (o origins) tcbInfo(tee uint32, fmspc [6]byte) string {
	return o.api + "/" + path(tee) + "/certification/v4/tcb?fmspc=" + hex.EncodeToString(fmspc[:])
}

func (o origins) qeIdentity(tee uint32) string {
	return o.api + "/" + path(tee) + "/certification/v4/qe/identity"
}

func path(tee uint32) string {
	if tee == quote.TDX {
		return "tdx"
	}
	return "sgx"
}

// Origins lists what a quote of one TEE type from one platform needs, for those
// who fetch ahead (production: rootSPKI ""), and for simulated hardware, whose
// root's fingerprint (hex SHA-256 of the SPKI) names the machine. ca is "platform" or "processor".
func Origins(rootSPKI string, tee uint32, fmspc [6]byte, ca string) (rootCRL, pckCRL, tcbInfo, qeIdentity string) {
	o := originsFor(verify.Production, "")
	if rootSPKI != "" {
		o = originsFor(verify.InsecureSimulated, strings.ToLower(rootSPKI))
	}
	return o.rootCRL(), o.pckCRL(ca), o.tcbInfo(tee, fmspc), o.qeIdentity(tee)
}
