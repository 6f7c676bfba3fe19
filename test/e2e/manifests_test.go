package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
)

// manifestCase runs one manifest of the Kubernetes documentation, unchanged.
type manifestCase struct {
	file  string
	port  int      // container port to publish; 0: none
	args  []string // further flags of coffer run
	full  bool     // in a VM only with make e2e-full; in a process always
	limit bool     // has a limit, which process TEEs refuse
	check func(t *testing.T, e *env, p *pod, hostPort int)
}

func http200(want string) func(*testing.T, *env, *pod, int) {
	return func(t *testing.T, _ *env, p *pod, port int) {
		t.Helper()
		if body := p.get(fmt.Sprintf("http://127.0.0.1:%d/", port)); !strings.Contains(body, want) {
			t.Errorf("got %q, want %q in it", body, want)
		}
	}
}

func ends(code int, outputs ...string) func(*testing.T, *env, *pod, int) {
	return func(t *testing.T, _ *env, p *pod, _ int) {
		t.Helper()
		if got := p.wait(); got != code {
			t.Errorf("exit code %d, want %d", got, code)
		}
		for _, o := range outputs {
			if !strings.Contains(p.stdout(), o) {
				t.Errorf("output %q lacks %q", p.stdout(), o)
			}
		}
	}
}

// execs checks what commands in the container print; the run must allow exec.
func execs(name string, want map[string][]string) func(*testing.T, *env, *pod, int) {
	return func(t *testing.T, e *env, p *pod, _ int) {
		t.Helper()
		p.waitFor("the container to run", func() bool {
			out, _, code := e.coffer(t, p.home, "ps", "-o", "json")
			return code == 0 && strings.Contains(out, `"state": "running"`)
		})
		for answer, args := range want {
			out, errout, code := e.coffer(t, p.home, append([]string{"exec", name, "--"}, args...)...)
			if code != 0 || strings.TrimSpace(out) != answer {
				t.Errorf("exec %q: %q (exit code %d, %s), want %q", args, out, code, errout, answer)
			}
		}
	}
}

var manifestCases = []manifestCase{
	// printenv prints HOSTNAME and fails: KUBERNETES_PORT is unset, as the
	// documentation's own cluster would have it without service links.
	{file: "commands.yaml", check: ends(1, "command-demo")},
	{file: "dependent-envars.yaml", full: true, check: func(t *testing.T, _ *env, p *pod, _ int) {
		p.waitOutput("https://172.17.0.1:80")
		p.waitOutput("$(PROTOCOL)://172.17.0.1:80")
	}},
	{file: "envars.yaml", full: true, port: 8080, check: http200("Hello, world!")},
	{file: "memory-request-limit-2.yaml", limit: true, check: func(t *testing.T, _ *env, p *pod, _ int) {
		if code := p.wait(); code != 137 && code != 1 {
			t.Errorf("exit code %d, want the out-of-memory kill", code)
		}
		if !strings.Contains(p.stderr(), "OOMKilled") {
			t.Error("no word of an out-of-memory kill")
		}
	}},
	{file: "pod-configmap-volume.yaml", full: true, check: ends(0, "SPECIAL_LEVEL", "SPECIAL_TYPE")},
	{file: "qos-pod.yaml", limit: true, port: 80, check: http200("nginx")},
	{file: "seccomp-default-pod.yaml", full: true, port: 5678, check: http200("just made some more syscalls!")},
	{file: "secret-envars-pod.yaml", args: []string{"--allow-exec"}, check: execs("secret-envars-test-pod", map[string][]string{
		"my-app":       {"printenv", "SECRET_USERNAME"},
		`39528$vdg7Jb`: {"printenv", "SECRET_PASSWORD"},
	})},
	{file: "secret-pod.yaml", full: true, args: []string{"--allow-exec"}, check: execs("secret-test-pod", map[string][]string{
		"my-app":       {"cat", "/etc/secret-volume/username"},
		`39528$vdg7Jb`: {"cat", "/etc/secret-volume/password"},
	})},
	{file: "security-context-2.yaml", full: true, port: 8080, check: http200("Hello, world!")},
	{file: "security-context-4.yaml", full: true, port: 8080, check: http200("Hello, world!")},
	{file: "shared-volume.yaml", full: true, port: 80, check: http200("Hello from the init container")},
	{file: "simple-pod.yaml", full: true, port: 80, check: http200("nginx")},
	{file: "storage-redis.yaml", port: 6379, check: redisPing},
	{file: "two-container-pod.yaml", full: true, port: 80, check: http200("Hello from the debian container")},
}

func redisPing(t *testing.T, _ *env, p *pod, port int) {
	t.Helper()
	var line string
	p.waitFor("an answer of redis", func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := fmt.Fprint(c, "SET k v\r\nGET k\r\n"); err != nil {
			return false
		}
		r := bufio.NewReader(c)
		for range 3 {
			if line, err = r.ReadString('\n'); err != nil {
				return false
			}
		}
		return true
	})
	if strings.TrimSpace(line) != "v" {
		t.Errorf("redis gave %q for k", line)
	}
}

// TestManifests runs every manifest of shared/manifests as its README says.
func TestManifests(t *testing.T) {
	root, err := repoRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(root), "shared", "manifests")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no manifests in %s", dir)
		}
		t.Skipf("no manifests in %s", dir)
	}
	covered := map[string]bool{}
	for _, c := range manifestCases {
		covered[c.file] = true
	}
	for _, f := range files {
		if !covered[filepath.Base(f)] {
			t.Errorf("%s has no case", filepath.Base(f))
		}
	}
	for _, c := range manifestCases {
		name := strings.TrimSuffix(c.file, ".yaml")
		t.Run(name, func(t *testing.T) {
			if c.full {
				full(t)
			}
			t.Parallel()
			c.run(t, dir, launch.TPMSim)
		})
		t.Run(name+"-process", func(t *testing.T) {
			t.Parallel()
			if c.limit {
				_, errout, code := shared.coffer(t, shared.newHome(t), "run", "--tee", string(launch.SGXSim), "--registries", shared.registries, filepath.Join(dir, c.file))
				if code != 120 || !strings.Contains(errout, "limit") {
					t.Errorf("exit code %d, %q; want the limit refused", code, errout)
				}
				return
			}
			c.run(t, dir, launch.SGXSim)
		})
	}
}

func (c *manifestCase) run(t *testing.T, dir string, tee launch.TEE) {
	t.Helper()
	args := append([]string{"--tee", string(tee), "--max-restarts", "0"}, c.args...)
	port := 0
	if c.port != 0 {
		port = freePort(t)
		args = append(args, "--publish", fmt.Sprintf("%d:%d", port, c.port))
	}
	p := shared.run(t, shared.newHome(t), append(args, filepath.Join(dir, c.file))...)
	c.check(t, shared, p, port)
	select {
	case <-p.done:
	default:
		p.stop()
	}
}
