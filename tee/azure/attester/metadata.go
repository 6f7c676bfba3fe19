package attester

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/azure"
)

// Request is one request to the metadata service.
type Request struct {
	Method, URL string
	Header      map[string]string
	Body        []byte
	// Limit is the largest answer to read, in bytes.
	Limit int64
}

// Metadata does requests to Azure's metadata service and gives the body of a
// successful answer. It follows no redirect and uses no proxy.
type Metadata interface {
	Do(ctx context.Context, r *Request) ([]byte, error)
}

const maxAnswer = 64 << 10

type certificates struct {
	chip      string // and TCB version that they are for
	vcek, ask []byte
}

// chipOf gives what names the certificate of an SNP report: reported TCB and
// chip id.
func chipOf(report []byte) string { return string(report[0x180:0x188]) + string(report[0x1a0:0x1e0]) }

// fetchCertificates gets the chip's certificate, once for each chip and TCB.
func (a *Attester) fetchCertificates(ctx context.Context, report []byte) error {
	if a.vcek != nil && a.vcek.chip == chipOf(report) {
		return nil
	}
	b, err := do(ctx, a.o.Metadata, &Request{Method: "GET", URL: azure.AMDCertificates, Header: map[string]string{"Metadata": "true"}, Limit: maxAnswer})
	if err != nil {
		return fmt.Errorf("fetching the chip's certificate: %w", err)
	}
	c, err := parseCertificates(b)
	if err != nil {
		return fmt.Errorf("fetching the chip's certificate: %w", err)
	}
	c.chip = chipOf(report)
	a.vcek = c
	return nil
}

func do(ctx context.Context, m Metadata, r *Request) ([]byte, error) {
	b, err := m.Do(ctx, r)
	if err == nil && int64(len(b)) > r.Limit {
		err = fmt.Errorf("answer of %d bytes, at most %d", len(b), r.Limit)
	}
	return b, err
}

// parseCertificates takes the first certificate of each member. Members beside
// them are the service's to add.
func parseCertificates(b []byte) (*certificates, error) {
	var d azure.Certificates
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	vcek, _ := pem.Decode([]byte(d.VCEK))
	ask, _ := pem.Decode([]byte(d.Chain))
	for _, p := range []*pem.Block{vcek, ask} {
		if p == nil || p.Type != "CERTIFICATE" || len(p.Bytes) == 0 || len(p.Bytes) > azure.MaxCert {
			return nil, errors.New("no certificate in PEM")
		}
	}
	return &certificates{vcek: vcek.Bytes, ask: ask.Bytes}, nil
}

// fetchQuote has the host's quoting enclave sign a TDREPORT.
func fetchQuote(ctx context.Context, m Metadata, tdReport []byte) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(tdReport)})
	if err != nil {
		return nil, fmt.Errorf("fetching TD quote: %w", err)
	}
	b, err := do(ctx, m, &Request{Method: "POST", URL: azure.IntelQuote, Header: map[string]string{"Content-Type": "application/json"}, Body: body, Limit: maxAnswer})
	if err != nil {
		return nil, fmt.Errorf("fetching TD quote: %w", err)
	}
	var d struct {
		Quote string `json:"quote"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("fetching TD quote: %w", err)
	}
	q, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(d.Quote, "="))
	if err != nil || len(q) == 0 || len(q) > azure.MaxQuote {
		return nil, errors.New("fetching TD quote: no quote in base64url")
	}
	return q, nil
}
