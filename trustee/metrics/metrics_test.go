package metrics_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cofferproject/coffer/trustee/metrics"
)

func TestTextFormat(t *testing.T) {
	s := metrics.New()
	c := s.Counter("requests_total", "Requests.", metrics.Label{Name: "route", Values: []string{"a", "b"}}, metrics.Label{Name: "code", Values: []string{"2xx"}})
	s.Gauge("now", "A value\nof now.", func() float64 { return 1.5 })
	s.Constant("build_info", "The build.", "version", `v"1\`)
	h := s.Histogram("seconds", "Times.", metrics.Label{Name: "route", Values: []string{"a"}}, 0.1, 1)
	plain := s.Counter("plain_total", "Nothing yet.")
	_ = plain
	c.Inc("b", "2xx")
	c.Add(2, "no such route", "500")
	for _, v := range []float64{0.05, 0.1, 0.5, 7} {
		h.Observe("a", v)
	}
	var b strings.Builder
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	want := `# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{route="b",code="2xx"} 1
requests_total{route="other",code="other"} 2
# HELP now A value\nof now.
# TYPE now gauge
now 1.5
# HELP build_info The build.
# TYPE build_info gauge
build_info{version="v\"1\\"} 1
# HELP seconds Times.
# TYPE seconds histogram
seconds_bucket{route="a",le="0.1"} 2
seconds_bucket{route="a",le="1"} 3
seconds_bucket{route="a",le="+Inf"} 4
seconds_sum{route="a"} 7.65
seconds_count{route="a"} 4
# HELP plain_total Nothing yet.
# TYPE plain_total counter
plain_total 0
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Whatever is observed, the output stays as large as the labels allow.
func TestLabelsAreBounded(t *testing.T) {
	s := metrics.New()
	c := s.Counter("c_total", "C.", metrics.Label{Name: "reason", Values: []string{"a"}})
	h := s.Histogram("h", "H.", metrics.Label{Name: "route", Values: []string{"a"}}, 1)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				c.Inc(fmt.Sprint("hostile-", g, i))
				h.Observe(fmt.Sprint("hostile-", g, i), 2)
			}
		})
	}
	wg.Wait()
	var b strings.Builder
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `c_total{reason="other"} 4000`) || !strings.Contains(b.String(), `h_sum{route="other"} 8000`) || b.Len() > 600 {
		t.Errorf("%d bytes: %s", b.Len(), b.String())
	}
}
