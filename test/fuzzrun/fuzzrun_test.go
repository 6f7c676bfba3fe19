package main

import (
	"fmt"
	"testing"
	"time"
)

func TestTargetsAreFound(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	ts, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, x := range ts {
		names[x.name()] = true
	}
	for _, want := range []string{"api/initdata.FuzzDecodeDevice", "tee/eventlog.FuzzParse", "owner/pod.FuzzParse"} {
		if !names[want] {
			t.Errorf("%s was not found", want)
		}
	}
	for n := range trusted {
		if !names[n] {
			t.Errorf("%s is in the table of trusted inputs and does not exist", n)
		}
	}
}

func TestPlan(t *testing.T) {
	fresh := func() []*target {
		return []*target{{pkg: "a", fn: "FuzzA"}, {pkg: "b", fn: "FuzzB"}, {pkg: "b", fn: "FuzzC"}, {pkg: "c", fn: "FuzzD", changed: true}}
	}
	first := map[string]bool{}
	for i := range 20 {
		ts := fresh()
		plan(ts, options{total: 40 * time.Second}, fmt.Sprint(i))
		if ts[0].pkg != "c" || ts[0].time != changedTurn || ts[1].time != turn {
			t.Errorf("got %+v, %+v", *ts[0], *ts[1])
		}
		if ts[1].pkg != "b" && ts[2].pkg != "b" || ts[2].pkg != "b" && ts[3].pkg != "b" {
			t.Errorf("a package's targets are apart: %+v, %+v, %+v", *ts[1], *ts[2], *ts[3])
		}
		first[ts[1].pkg] = true
	}
	if !first["a"] || !first["b"] {
		t.Errorf("always the same begin: %v", first)
	}
	ts := []*target{{pkg: "a", fn: "FuzzA"}, {pkg: "owner/pod", fn: "FuzzParse"}}
	plan(ts, options{}, "")
	if ts[0].time != longTime || ts[1].time != shortTime {
		t.Errorf("got %+v, %+v", *ts[0], *ts[1])
	}
}

func TestOnlyTimeUp(t *testing.T) {
	const head = "fuzz: elapsed: 3s, execs: 19756 (0/sec), new interesting: 4 (total: 6)\n"
	for _, c := range []struct {
		out  string
		want bool
	}{
		{head + "--- FAIL: FuzzParse (3.02s)\n    context deadline exceeded\nFAIL\n", true},
		{head + "--- FAIL: FuzzParse (3.02s)\n    --- FAIL: FuzzParse (0.00s)\n        context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzParse/1\nFAIL\n", false},
		{head + "--- FAIL: FuzzParse (10s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\n    Failing input written to testdata/fuzz/FuzzParse/1\nFAIL\n", false},
		{head + "panic: x\n", false},
		{"", false},
	} {
		if got := onlyTimeUp([]byte(c.out)); got != c.want {
			t.Errorf("%q: %v", c.out, got)
		}
	}
}
