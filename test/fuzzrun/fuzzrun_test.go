package main

import (
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
	ts := []*target{{pkg: "a", fn: "FuzzA"}, {pkg: "b", fn: "FuzzB", changed: true}}
	plan(ts, options{total: 40 * time.Second})
	if ts[0].pkg != "b" || ts[0].time != 30*time.Second || ts[1].time != 10*time.Second {
		t.Errorf("got %+v, %+v", *ts[0], *ts[1])
	}
	ts = []*target{{pkg: "a", fn: "FuzzA"}, {pkg: "owner/pod", fn: "FuzzParse"}}
	plan(ts, options{})
	if ts[0].time != longTime || ts[1].time != shortTime {
		t.Errorf("got %+v, %+v", *ts[0], *ts[1])
	}
}
