// Package metrics counts, and writes what was counted in the text format of
// Prometheus (version 0.0.4).
//
// Invariants: every label has a set of values that is known when the metric is made,
// and whatever else is observed counts as "other", so that no peer can make the
// output or the memory grow; no metric holds a name that an owner or a guest chose; the operator's own
// (of secret stores, from the configuration) may be values.
//
// Trust zone: trustee.
package metrics

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Other is the value of a label for what is not among its values.
const Other = "other"

// Set is a set of metrics. It is safe for concurrent use.
type Set struct {
	mu  sync.Mutex
	all []metric
}

type metric interface {
	head() (name, help, kind string)
	write(b *strings.Builder)
}

// New makes an empty Set.
func New() *Set { return &Set{} }

func (s *Set) add(m metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, m)
}

// Names lists the metrics.
func (s *Set) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.all {
		n, _, _ := m.head()
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// WriteTo writes all metrics.
func (s *Set) WriteTo(w io.Writer) (int64, error) {
	s.mu.Lock()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	var b strings.Builder
	for _, m := range all {
		name, help, kind := m.head()
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, escape(help, false), name, kind)
		m.write(&b)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Label is the name of a label with all values that it can have beside Other.
type Label struct {
	Name   string
	Values []string
}

// index gives the place of a value; the last one is Other's.
func (l *Label) index(v string) int {
	if i := slices.Index(l.Values, v); i >= 0 {
		return i
	}
	return len(l.Values)
}

func (l *Label) value(i int) string {
	if i < len(l.Values) {
		return l.Values[i]
	}
	return Other
}

// Counter counts up, for each combination of its labels' values.
type Counter struct {
	name, help string
	labels     []Label
	cells      []atomic.Uint64
}

// Counter adds a counter.
func (s *Set) Counter(name, help string, labels ...Label) *Counter {
	n := 1
	for _, l := range labels {
		n *= len(l.Values) + 1
	}
	c := &Counter{name: name, help: help, labels: labels, cells: make([]atomic.Uint64, n)}
	s.add(c)
	return c
}

// Inc counts one; values are the labels' in their order.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Add counts n.
func (c *Counter) Add(n uint64, values ...string) {
	at := 0
	for i := range c.labels {
		v := ""
		if i < len(values) {
			v = values[i]
		}
		at = at*(len(c.labels[i].Values)+1) + c.labels[i].index(v)
	}
	c.cells[at].Add(n)
}

func (c *Counter) head() (string, string, string) { return c.name, c.help, "counter" }

func (c *Counter) write(b *strings.Builder) {
	for i := range c.cells {
		n := c.cells[i].Load()
		if n == 0 && len(c.labels) > 0 {
			continue // combinations that never were are left out
		}
		fmt.Fprintf(b, "%s%s %d\n", c.name, c.at(i), n)
	}
}

// at gives the labels of a cell.
func (c *Counter) at(i int) string {
	if len(c.labels) == 0 {
		return ""
	}
	out := make([]string, len(c.labels))
	for k := len(c.labels) - 1; k >= 0; k-- {
		l := &c.labels[k]
		n := len(l.Values) + 1
		out[k] = l.Name + `="` + escape(l.value(i%n), true) + `"`
		i /= n
	}
	return "{" + strings.Join(out, ",") + "}"
}

// gauge is a value that is asked for when the metrics are written.
type gauge struct {
	name, help string
	label      string // of one constant label, with its value
	value      func() float64
}

// Gauge adds a value that is asked for at each writing.
func (s *Set) Gauge(name, help string, value func() float64) {
	s.add(&gauge{name, help, "", value})
}

// Constant adds a gauge that is 1 and has one label.
func (s *Set) Constant(name, help, label, value string) {
	s.add(&gauge{name, help, "{" + label + `="` + escape(value, true) + `"}`, func() float64 { return 1 }})
}

func (g *gauge) head() (string, string, string) { return g.name, g.help, "gauge" }
func (g *gauge) write(b *strings.Builder) {
	b.WriteString(g.name + g.label + " " + number(g.value()) + "\n")
}

// Histogram counts durations in seconds, for each value of one label.
type Histogram struct {
	name, help string
	label      Label
	bounds     []float64
	cells      []atomic.Uint64 // for each value: one for each bound, and above
	sums       []atomic.Uint64 // bits of a float64
}

// Histogram adds a histogram; bounds ascend.
func (s *Set) Histogram(name, help string, label Label, bounds ...float64) *Histogram {
	n := len(label.Values) + 1
	h := &Histogram{
		name: name, help: help, label: label, bounds: bounds, cells: make([]atomic.Uint64, n*(len(bounds)+1)), sums: make([]atomic.Uint64, n),
	}
	s.add(h)
	return h
}

// Observe counts one value.
func (h *Histogram) Observe(label string, v float64) {
	i := h.label.index(label)
	at, _ := slices.BinarySearch(h.bounds, v)
	h.cells[i*(len(h.bounds)+1)+at].Add(1)
	for {
		old := h.sums[i].Load()
		if h.sums[i].CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

func (h *Histogram) head() (string, string, string) { return h.name, h.help, "histogram" }

func (h *Histogram) write(b *strings.Builder) {
	per := len(h.bounds) + 1
	for i := range h.sums {
		total := uint64(0)
		label := h.label.Name + `="` + escape(h.label.value(i), true) + `"`
		var lines strings.Builder
		for k := range per {
			total += h.cells[i*per+k].Load()
			le := "+Inf"
			if k < len(h.bounds) {
				le = number(h.bounds[k])
			}
			fmt.Fprintf(&lines, "%s_bucket{%s,le=\"%s\"} %d\n", h.name, label, le, total)
		}
		if total == 0 {
			continue
		}
		b.WriteString(lines.String())
		fmt.Fprintf(b, "%s_sum{%s} %s\n%s_count{%s} %d\n", h.name, label, number(math.Float64frombits(h.sums[i].Load())), h.name, label, total)
	}
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func escape(s string, label bool) string {
	if label {
		return labelEscapes.Replace(s)
	}
	return helpEscapes.Replace(s)
}
