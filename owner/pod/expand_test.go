package pod

import "testing"

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)", "EMPTY": "", "VAR_1": "x"}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for in, want := range map[string]string{
		"":                 "",
		"plain":            "plain",
		"$(A)":             "1",
		"$(A)$(A)":         "11",
		"-$(A)-":           "-1-",
		"$(B)":             "$(A)", // a value is not expanded again
		"$(UNKNOWN)":       "$(UNKNOWN)",
		"$(EMPTY)x":        "x",
		"$$(A)":            "$(A)",
		"$$$(A)":           "$1",
		"$$$$(A)":          "$$(A)",
		"$A":               "$A",
		"${A}":             "${A}",
		"$(A":              "$(A",
		"$(A$(A)":          "$(A$(A)", // the name is "A$(A"
		"$":                "$",
		"a$":               "a$",
		"$$":               "$",
		"foo$(VAR_1)$$bar": "foox$bar",
		"$()":              "$()",
		"$( A)":            "$( A)",
		"$)(":              "$)(",
		"é$(A)é":           "é1é",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
