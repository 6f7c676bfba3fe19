package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// figures prints what was measured and keeps what missed its bound.
type figures struct{ missed []string }

// say prints a figure that has no bound.
func (f *figures) say(what, value string) { f.line(what, value, "") }

func (f *figures) line(what, value, bound string) {
	if bound != "" {
		bound = "(bound " + bound + ")"
	}
	fmt.Printf("%-70s %12s  %s\n", what, value, bound)
}

// most prints a figure with the largest value that it may have, least with the
// smallest; format prints both.
func (f *figures) most(what string, value, bound float64, format string) {
	f.bounded(what, value, bound, format, value <= bound)
}

func (f *figures) least(what string, value, bound float64, format string) {
	f.bounded(what, value, bound, format, value >= bound)
}

func (f *figures) bounded(what string, value, bound float64, format string, met bool) {
	b := fmt.Sprintf(format, bound)
	if !met {
		b += ", MISSED"
		f.missed = append(f.missed, what)
	}
	f.line(what, fmt.Sprintf(format, value), b)
}

// err names what missed its bound.
func (f *figures) err() error {
	if len(f.missed) == 0 {
		return nil
	}
	return fmt.Errorf("%d bounds are missed: %s", len(f.missed), strings.Join(f.missed, "; "))
}

func micros(d time.Duration) string { return d.Round(time.Microsecond).String() }

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// median gives the middle of an odd number of values.
func median(l []float64) float64 {
	s := slices.Sorted(slices.Values(l))
	return s[len(s)/2]
}
