package pod

import (
	"fmt"
	"testing"
)

// TestProbesAreExpandedAsByAKubelet: probes with the values as written, hooks not at all.
func TestProbesAreExpandedAsByAKubelet(t *testing.T) {
	const command = `["$(A)", "$(B)", "$(FROM)", "$(K)", "$(NONE)", "$(DB_SERVICE_HOST)", "$$(A)", "$$", "$(A", "$A", "x-$(A)$(A)", "$(TWICE)"]`
	p, err := Parse([]byte(withContainer(`envFrom: [{secretRef: {name: s}}]
env:
- {name: A, value: "1"}
- {name: B, value: "$(A)"}
- {name: FROM, valueFrom: {configMapKeyRef: {name: c, key: A}}}
- {name: TWICE, value: first}
- {name: TWICE, value: last}
livenessProbe: {exec: {command: `+command+`}}
readinessProbe: {exec: {command: ["1"]}}
startupProbe: {exec: {command: ["$(A)"]}}
lifecycle: {postStart: {exec: {command: ["$(A)", $$]}}, preStop: {exec: {command: ["1"]}}}`) + objects))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`["1"]`, // startup and, once, readiness and preStop
		`["1" "$(A)" "" "$(K)" "$(NONE)" "$(DB_SERVICE_HOST)" "$(A)" "$" "$(A" "$A" "x-11" "last"]`,
		`["$(A)" "$$"]`,
	}
	got := p.All()[0].Commands()
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if fmt.Sprintf("%q", got[i]) != want[i] {
			t.Errorf("got %q\nwant %s", got[i], want[i])
		}
	}
	if p.All()[0].LivenessProbe.Exec.Command[0] != "$(A)" {
		t.Error("the manifest was changed")
	}
}
