package trace

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxWaiting = 2048 // spans in memory
	batch      = 256
	flushEvery = 2 * time.Second
	sendTime   = 5 * time.Second
	maxAnswer  = 16 << 10

	kindInternal, kindServer = 1, 2
	statusError              = 2
)

// Config makes a Tracer.
type Config struct {
	// Endpoint is the URL to which traces are posted, such as
	// https://collector:4318/v1/traces; "": none are made. Without TLS it is a loopback
	// address.
	Endpoint string
	// CAFile has who vouches for the collector (PEM); "": the system's.
	CAFile string
	// HeaderFile has lines "Name: value" for every request, such as a token.
	HeaderFile string
	// Ratio is the part of requests that are traced, above 0 to 1.
	Ratio float64
	// Accept are the addresses of peers whose traceparent counts.
	Accept []netip.Prefix
	// Version of the trustee.
	Version string
	Log     *slog.Logger
	// Dropped, if set, hears how many spans were dropped.
	Dropped func(n int)
}

// New starts what exports traces; nil without an endpoint.
func New(c Config) (*Tracer, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	if c.Log == nil {
		return nil, errors.New("trace: log missing")
	}
	if !(c.Ratio > 0 && c.Ratio <= 1) {
		return nil, fmt.Errorf("trace: ratio %v is not above 0 and up to 1", c.Ratio)
	}
	client, err := c.client()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	header, err := c.header()
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	x := &exporter{cfg: c, client: client, header: header, queue: make(chan otlpSpan, maxWaiting), over: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	x.stop = stop
	go x.run(ctx)
	return &Tracer{ratio: share(c.Ratio), accept: c.Accept, out: x}, nil
}

func (c Config) client() (*http.Client, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("the collector's endpoint is no URL with a host and nothing secret")
	}
	switch ip, err := netip.ParseAddr(u.Hostname()); {
	case u.Scheme == "https":
	case u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.IsLoopback()):
	default:
		return nil, errors.New("the collector's endpoint is neither https nor http on this machine")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		b, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no certificate", c.CAFile)
		}
	}
	return &http.Client{
		Timeout: sendTime,
		Transport: &http.Transport{
			TLSClientConfig: conf, ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: sendTime}).DialContext,
			MaxIdleConns: 1, MaxResponseHeaderBytes: 16 << 10, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (c Config) header() (http.Header, error) {
	h := http.Header{}
	if c.HeaderFile != "" {
		b, err := os.ReadFile(c.HeaderFile)
		if err != nil {
			return nil, err
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			k, v, ok := strings.Cut(s.Text(), ":")
			if !ok || strings.TrimSpace(k) == "" {
				return nil, fmt.Errorf("%s: a line is not \"Name: value\"", c.HeaderFile)
			}
			h.Add(strings.TrimSpace(k), strings.TrimSpace(v))
		}
	}
	h.Set("Content-Type", "application/json")
	return h, nil
}

// exporter sends spans in batches.
type exporter struct {
	cfg    Config
	client *http.Client
	header http.Header
	queue  chan otlpSpan
	stop   context.CancelFunc
	over   chan struct{}
	once   sync.Once
}

// add never waits.
func (x *exporter) add(s *Span, end time.Time) {
	select {
	case x.queue <- s.otlp(end):
	default:
		x.dropped(1)
	}
}

func (x *exporter) dropped(n int) {
	if x.cfg.Dropped != nil {
		x.cfg.Dropped(n)
	}
}

// Close sends what waits, for as long as ctx allows and not for long.
func (t *Tracer) Close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	t.out.once.Do(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for len(t.out.queue) > 0 && ctx.Err() == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		t.out.stop()
		<-t.out.over
	})
}

func (x *exporter) run(ctx context.Context) {
	defer close(x.over)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var l []otlpSpan
	for {
		select {
		case s := <-x.queue:
			if l = append(l, s); len(l) < batch {
				continue
			}
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
			defer cancel()
			x.send(last, l)
			return
		}
		x.send(ctx, l)
		l = l[:0]
	}
}

// lastTime is what the last batch may take when the trustee ends.
const lastTime = time.Second

// send posts a batch once: a collector that does not take it loses it.
func (x *exporter) send(ctx context.Context, l []otlpSpan) {
	if len(l) == 0 {
		return
	}
	if err := x.post(ctx, l); err != nil {
		x.dropped(len(l))
		x.cfg.Log.Warn("the collector did not take traces", "spans", len(l), "error", err)
	}
}

func (x *exporter) post(ctx context.Context, l []otlpSpan) error {
	b, err := json.Marshal(otlpRequest{[]otlpResource{{
		Resource: otlpAttributes{[]otlpAttribute{{"service.name", otlpValue{Text: "coffer-trustee"}}, {"service.version", otlpValue{Text: x.cfg.Version}}}},
		Scopes:   []otlpScope{{Scope: otlpName{"coffer-trustee"}, Spans: l}},
	}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.cfg.Endpoint, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header = x.header.Clone()
	resp, err := x.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// The JSON form of opentelemetry/proto/collector/trace/v1: ids in hex, 64-bit numbers
// as text.
type (
	otlpRequest struct {
		Resources []otlpResource `json:"resourceSpans"`
	}
	otlpResource struct {
		Resource otlpAttributes `json:"resource"`
		Scopes   []otlpScope    `json:"scopeSpans"`
	}
	otlpScope struct {
		Scope otlpName   `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	otlpName struct {
		Name string `json:"name"`
	}
	otlpAttributes struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpValue struct {
		Text string `json:"stringValue,omitempty"`
		Int  string `json:"intValue,omitempty"`
	}
	otlpStatus struct {
		Code int `json:"code,omitempty"`
	}
	otlpSpan struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		ParentID   string          `json:"parentSpanId,omitempty"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []otlpAttribute `json:"attributes,omitempty"`
		Status     otlpStatus      `json:"status"`
	}
)

func (s *Span) otlp(end time.Time) otlpSpan {
	o := otlpSpan{
		TraceID: hex.EncodeToString(s.of.id[:]), SpanID: hex.EncodeToString(s.id[:]), Name: s.name, Kind: s.kind,
		Start: strconv.FormatInt(s.began.UnixNano(), 10), End: strconv.FormatInt(s.began.Add(end.Sub(s.began)).UnixNano(), 10),
	}
	if s.parent != [8]byte{} {
		o.ParentID = hex.EncodeToString(s.parent[:])
	}
	for _, a := range s.attributes {
		v := otlpValue{Text: a.text}
		if a.isNum {
			v = otlpValue{Int: strconv.FormatInt(a.num, 10)}
		}
		o.Attributes = append(o.Attributes, otlpAttribute{a.key, v})
	}
	if s.failed {
		o.Status.Code = statusError
	}
	return o
}
