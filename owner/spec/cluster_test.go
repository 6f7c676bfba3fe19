package spec

import (
	"fmt"
	"testing"

	"github.com/cofferproject/coffer/api/agentpb"
)

// TestProbesReachThePolicyExpanded: what a kubelet will ask for is allowed, the
// words of the manifest are not.
func TestProbesReachThePolicyExpanded(t *testing.T) {
	policy, plan := build(t, podHead+`
  containers:
  - name: app
    image: x
    env: [{name: DIR, value: /run}, {name: HOST, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    readinessProbe: {exec: {command: [test, -e, "$(DIR)/ready$(HOST)", "$$x"]}}
    lifecycle: {preStop: {exec: {command: [rm, "$(DIR)/ready"]}}}
`, Options{})
	if got := fmt.Sprintf("%q", container(policy).Exec[0].Args) + fmt.Sprintf("%q", container(policy).Exec[1].Args); got != `["test" "-e" "/run/ready" "$x"]["rm" "$(DIR)/ready"]` {
		t.Errorf("%s", got)
	}
	e := enforcer(t, policy)
	play(t, e, plan, "app")
	app := plan.All()[0]
	allow(t, e, app.Create("a", "pod1"))
	allow(t, e, &agentpb.StartContainerRequest{ContainerId: "a"})
	allow(t, e, app.Exec("a", "1", []string{"test", "-e", "/run/ready", "$x"}, false))
	if _, err := e.Authorize(app.Exec("a", "2", []string{"test", "-e", "$(DIR)/ready$(HOST)", "$$x"}, false)); err == nil {
		t.Error("the words of the manifest are allowed too")
	}
}
