package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// recordingPod records events, more than it may, and asks for its secret before
// and after.
const recordingPod = `apiVersion: v1
kind: Pod
metadata: {name: recorder}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    command:
    - sh
    - -c
    - |
      api=http://127.0.0.1:8006
      secret() { wget -q -O - $api/cdh/resource/default/test/secret | sha256sum; }
      record() { wget -O - --post-data "{\"domain\":\"$1\",\"operation\":\"$2\",\"content\":\"$3\"}" $api/aa/aael 2>&1; }
      echo before: $(secret)
      echo event: $(record example.org open "a door")
      echo between: $(secret)
      echo forged: $(record github.com/confidential-containers PullImage "{}")
      long=$(head -c 300 /dev/zero | tr '\0' '<')
      for i in 1 2 3 4 5 6 7 8 9; do echo long: $(record example.org fill "$long"); done
      echo after: $(secret)
`

// TestRuntimeEvents runs a pod that records events: what it recorded is in the
// claims of every later token, and it cannot record so much that none comes.
func TestRuntimeEvents(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ tee, wire string }{{"tpm-sim", "tpm"}, {"tdx-sim", "tdx"}, {"azure-snp-sim", "az-snp-vtpm"}} {
		t.Run(c.tee, func(t *testing.T) {
			t.Parallel()
			if c.tee != "tpm-sim" {
				full(t)
			}
			home := shared.newHome(t)
			trustee := shared.startTrustee(t, home, "")
			file, id := shared.seal(t, home, recordingPod, "--event-log", "--tee", c.tee)
			shared.must(t, home, "secret", "put", "default/test/secret", "--for", id, "--from-file", write(t, home, "secret", "for the recorder"))
			p := shared.run(t, home, "--tee", c.tee, file)
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			sum := fmt.Sprintf("%x", sha256.Sum256([]byte("for the recorder")))
			contains(t, "the pod's output", p.stdout(), "before: "+sum, "between: "+sum, "after: "+sum, `{"success":"true"}`)
			for _, line := range strings.Split(p.stdout(), "\n") {
				if strings.Contains(line, "forged: ") && !strings.Contains(line, "403") {
					t.Errorf("an event in the guest's name: %q", line)
				}
			}
			refused := strings.Count(p.stdout(), "429")
			recorded := strings.Count(p.stdout(), "long: ") - refused
			if recorded < 1 || refused < 1 {
				t.Errorf("%d long events recorded, %d refused", recorded, refused)
			}

			list, err := trustee.sim.Attestations(t.Context(), trusteeclient.AttestationFilter{})
			if err != nil {
				t.Fatal(err)
			}
			var last []string
			seen := map[int]bool{}
			for _, r := range list {
				if r.Kind != "attest" || r.Outcome != trusteeapi.OutcomeGranted {
					continue
				}
				events := runtimeEvents(t, &r, c.wire)
				seen[len(events)] = true
				if len(events) > len(last) {
					last = events
				}
			}
			if !seen[1] || !seen[2] || len(last) != 2+recorded {
				t.Fatalf("tokens with %v events; %d were recorded", seen, 2+recorded)
			}
			if !strings.HasPrefix(last[0], `github.com/confidential-containers PullImage {"digest":"sha256:`) || !strings.Contains(last[0], "busybox") ||
				last[1] != "example.org open a door" || last[2] != "example.org fill "+strings.Repeat("<", 300) {
				t.Errorf("events %q", last)
			}
		})
	}
}

// runtimeEvents gives the claim about run-time events in the record of a token.
func runtimeEvents(t *testing.T, r *trusteeapi.Record, tee string) []string {
	t.Helper()
	b, err := json.Marshal(r.Claims["evidence"])
	if err != nil {
		t.Fatal(err)
	}
	var evidence map[string]struct {
		Events []string `json:"runtime_events"`
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(fmt.Appendf(nil, `{"tee":%s}`, members[tee]), &evidence); err != nil {
		t.Fatalf("claims of %s: %v", tee, err)
	}
	return evidence["tee"].Events
}
