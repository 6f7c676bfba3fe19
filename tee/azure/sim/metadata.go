package sim

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/snp"
)

// Metadata answers a request to Azure's metadata service: azure.AMDCertificates
// with the VCEK and the chain above it, azure.IntelQuote with a quote of the
// TDREPORT in the body.
func (v *VTPM) Metadata(url string, body []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case url == azure.AMDCertificates && v.snp != nil:
		return v.certificates()
	case url == azure.IntelQuote && v.td != nil:
		return v.tdQuote(body)
	}
	return nil, fmt.Errorf("simulated metadata service: nothing at %.80q", url)
}

func (v *VTPM) certificates() ([]byte, error) {
	d := azure.Certificates{}
	for _, t := range []string{snp.CertVCEK, snp.CertASK, snp.CertARK} {
		for _, c := range v.certs {
			if c.Type != t {
				continue
			}
			p := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Data}))
			if t == snp.CertVCEK {
				d.VCEK += p
			} else {
				d.Chain += p
			}
		}
	}
	if d.VCEK == "" || d.Chain == "" {
		return nil, errors.New("simulated metadata service: the hardware gave no certificates")
	}
	return json.Marshal(d)
}

func (v *VTPM) tdQuote(body []byte) ([]byte, error) {
	var in struct {
		Report string `json:"report"`
	}
	if len(body) > 4*azure.TDReportSize {
		return nil, errors.New("simulated metadata service: request too long")
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("simulated metadata service: %w", err)
	}
	r, err := base64.RawURLEncoding.DecodeString(in.Report)
	if err != nil || len(r) != azure.TDReportSize {
		return nil, errors.New("simulated metadata service: no TDREPORT")
	}
	q, err := v.td.Quote(r)
	if err != nil {
		return nil, fmt.Errorf("simulated metadata service: %w", err)
	}
	return json.Marshal(map[string]string{"quote": base64.RawURLEncoding.EncodeToString(q)})
}
