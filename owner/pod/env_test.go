package pod

import (
	"slices"
	"strings"
	"testing"
)

// TestServicesInsideText: a kubelet would put a service's address in, so the text
// cannot be sealed as it is written.
func TestServicesInsideText(t *testing.T) {
	const c = "spec.containers[0]"
	for _, x := range []struct {
		source, at, name string // at "" is fine
	}{
		{withContainer("args: [a, http://$(DB_SERVICE_HOST):80]"), c + ".args[1]", "DB_SERVICE_HOST"},
		{withContainer("command: [$(MY_DB_PORT)]"), c + ".command[0]", "MY_DB_PORT"},
		{withContainer("args: [$(DB_PORT_80_TCP_ADDR)]"), c + ".args[0]", "DB_PORT_80_TCP_ADDR"},
		{withContainer("env: [{name: URL, value: http://$(DB_SERVICE_PORT_HTTP)}]"), c + ".env[0].value", "DB_SERVICE_PORT_HTTP"},
		{withContainer("env: [{name: URL, value: $(DB_PORT)}, {name: DB_PORT, value: '80'}]"), c + ".env[0].value", "DB_PORT"}, // a later one does not count
		{withContainer("env: [{name: DB_PORT, valueFrom: {configMapKeyRef: {name: none, key: k, optional: true}}}]\nargs: [$(DB_PORT)]"), c + ".args[0]", "DB_PORT"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m, subPathExpr: $(DB_SERVICE_HOST)}]"), c + ".volumeMounts[0].subPath", "DB_SERVICE_HOST"},
		{withContainer("args: [$(KUBERNETES_SERVICE_HOST)]") + "  enableServiceLinks: false\n", c + ".args[0]", "KUBERNETES_SERVICE_HOST"},
		{withSpec("initContainers: [{name: i, image: x, args: [$(DB_SERVICE_HOST)]}]"), "spec.initContainers[0].args[0]", "DB_SERVICE_HOST"},

		{withContainer("args: [$(DB_SERVICE_HOST)]") + "  enableServiceLinks: false\n", "", ""},
		{withContainer("args: [$$(DB_SERVICE_HOST), $DB_PORT, '$(DB_PORT', $(db_PORT), $(DB_HOST), $(PORT)]"), "", ""},
		{withContainer("env: [{name: DB_PORT, value: '80'}, {name: URL, value: $(DB_PORT)}]\nargs: [$(DB_PORT)]"), "", ""},
		{withContainer("livenessProbe: {exec: {command: [$(DB_PORT)]}}\nlifecycle: {preStop: {exec: {command: [$(DB_PORT)]}}}"), "", ""}, // a kubelet knows no services there
	} {
		_, err := Parse([]byte(x.source))
		if x.at == "" {
			if err != nil {
				t.Errorf("%v\nfor %s", err, x.source)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), x.at+": ") || !strings.Contains(err.Error(), "$("+x.name+") is a service's variable") || !strings.Contains(err.Error(), "write the address") {
			t.Errorf("got %v\nfor %s", err, x.source)
		}
	}
	p, err := Parse([]byte(withContainer("args: [$(DB_PORT), $$(DB_PORT)]") + "  enableServiceLinks: false\n"))
	if err != nil {
		t.Fatal(err)
	}
	if proc, err := p.Process(p.All()[0]); err != nil || !slices.Equal(proc.Args, []string{"$(DB_PORT)", "$(DB_PORT)"}) {
		t.Errorf("%v %v", proc, err)
	}
}
