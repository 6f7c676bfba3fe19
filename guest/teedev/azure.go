package teedev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/tee/attest"
	azure "github.com/cofferproject/coffer/tee/azure/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// openAzure opens a paravisor's TPM: one whose memory holds a hardware report.
func openAzure(*slog.Logger) (attest.Attester, error) {
	t, err := azureTPM()
	if err != nil {
		return nil, err
	}
	return opened(azure.New(t, azure.Options{Metadata: newMetadata()}))
}

func azureTPM() (*device.Conn, error) {
	t, err := device.Open()
	if errors.Is(err, device.ErrNoTPM) {
		return nil, fmt.Errorf("%w: %w", attest.ErrNotPresent, err)
	}
	if err != nil {
		return nil, err
	}
	if _, err := azure.Detect(t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// azureRegister gives PCR 8 of a paravisor's TPM.
func azureRegister() (boot.Register, error) {
	t, err := azureTPM()
	if err != nil {
		return nil, err
	}
	tee, err := azure.Detect(t)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &boot.VTPM{Name: tee, TPM: t, Device: t}, nil
}

// metadataTimeout bounds one request to the link-local metadata service.
const metadataTimeout = 10 * time.Second

// metadata asks Azure's metadata service: no proxy, no redirect. What it says is
// collateral, which proves itself.
type metadata struct{ http *http.Client }

func newMetadata() metadata {
	return metadata{&http.Client{
		Timeout:       metadataTimeout,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Do implements azure.Metadata.
func (m metadata) Do(ctx context.Context, r *azure.Request) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		req.Header.Set(k, v)
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metadata service: status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, r.Limit+1))
	if err == nil && int64(len(b)) > r.Limit {
		err = fmt.Errorf("metadata service: more than %d bytes", r.Limit)
	}
	return b, err
}
