package guestvm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "workload" {
		os.Exit(workload(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func workload(args []string) int {
	switch args[0] {
	case "hello":
		fmt.Println("hello")
	case "eat": // more memory than there is
		var keep [][]byte
		for {
			keep = append(keep, bytes.Repeat([]byte{1}, 1<<20))
			if len(keep) > 1<<16 {
				return 0
			}
		}
	case "look": // what a container must not see
		for _, p := range []string{"/dev/tpm0", "/dev/vport0p1", "/dev/vda", "/run/confidential-containers", "/init", "/.root", "/modules"} {
			_, err := os.Stat(p)
			fmt.Println(p, os.IsNotExist(err))
		}
	case "rest":
		r, err := http.Get("http://127.0.0.1:8006/cdh/resource/default/key/1")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		// The key holder's answer (it has no trustee), not the door's own refusal.
		b, _ := io.ReadAll(r.Body)
		fmt.Println(r.StatusCode >= 400 && strings.Contains(string(b), "no-trustee"))
	case "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	}
	return 0
}

const image = "registry.example/work@sha256:0000000000000000000000000000000000000000000000000000000000000000"

func container(name string, args ...string) podpolicy.Container {
	path := "/bin"
	return podpolicy.Container{
		Name: name, Image: image, ManifestDigest: strings.TrimPrefix(image, "registry.example/work@"),
		Args: append([]string{"workload"}, args...), Env: []podpolicy.EnvVar{{Name: "PATH", Value: &path}},
		Cwd: "/", Seccomp: "runtime-default", Restart: "Never", Logs: true, Capabilities: []string{},
	}
}

func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestPod runs a pod in a machine of 256 MiB and prints the figures of issue 2's
// speed section that belong to the guest.
func TestPod(t *testing.T) {
	p := requireVM(t)
	eater, noisy := container("eater", "eat"), container("look", "look")
	eater.Resources = podpolicy.Resources{MemoryBytes: 32 << 20, CPUQuota: 90000, CPUPeriod: 100000, CPUShares: 512, Pids: 64}
	policy := &podpolicy.Policy{
		Version: 1, Pod: "default/vm", Hostname: "vm", Sandbox: podpolicy.Sandbox{ResolvConf: "host", ShmBytes: 1 << 20},
		Containers: []podpolicy.Container{container("hello", "hello"), eater, noisy, container("rest", "rest"), container("idle", "sleep")},
	}
	b, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	v := boot(t, p, testGuest(t, p), device(t, map[string]string{podpolicy.DataKey: string(b)}))
	if v.Agent == nil {
		t.Fatal("no agent")
	}
	if _, err := v.Health.Check(call(t), &agentpb.CheckRequest{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("agent's first answer after %s", time.Since(v.began))
	if _, err := v.UpdateInterface(call(t), &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{
		Name: "eth0", Device: "eth0", HwAddr: "52:54:00:12:34:56", Mtu: 1500,
		IPAddresses: []*agentpb.IPAddress{{Address: "10.0.2.15", Mask: "24"}},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.UpdateRoutes(call(t), &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*agentpb.Route{{Gateway: "10.0.2.2", Device: "eth0"}}}}); err != nil {
		t.Fatal(err)
	}
	routes, err := v.ListRoutes(call(t), &agentpb.ListRoutesRequest{})
	if err != nil || !strings.Contains(routes.String(), "10.0.2.2") {
		t.Errorf("routes %v, %v", routes, err)
	}
	if _, err := v.CreateSandbox(call(t), policy.CreateSandboxRequest("pod1", []string{"nameserver 10.0.2.3"})); err != nil {
		t.Fatal(err)
	}
	t.Logf("sandbox after %s", time.Since(v.began))
	run := func(name string) (string, int) {
		t.Helper()
		for i := range policy.Containers {
			if c := &policy.Containers[i]; c.Name == name {
				begin := time.Now()
				if _, err := v.CreateContainer(call(t), policy.CreateContainerRequest(c, name, "pod1", []string{"PATH=/bin"})); err != nil {
					t.Fatal(err)
				}
				created := time.Since(begin)
				if _, err := v.StartContainer(call(t), &agentpb.StartContainerRequest{ContainerId: name}); err != nil {
					t.Fatal(err)
				}
				started := time.Since(begin)
				r, err := v.ReadStdout(call(t), &agentpb.ReadStreamRequest{ContainerId: name, Len: 4096})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: created %s, started %s, first line %s", name, created, started, time.Since(begin))
				if name == "idle" {
					return string(r.Data), 0
				}
				rest, err := v.Output(call(t), name, "")
				if err != nil {
					t.Fatal(err)
				}
				code, err := v.Wait(call(t), name, "")
				if err != nil {
					t.Fatal(err)
				}
				return string(r.Data) + rest, code
			}
		}
		t.Fatal(name)
		return "", 0
	}
	if out, code := run("hello"); out != "hello\n" || code != 0 {
		t.Errorf("hello: %q, %d", out, code)
	}
	if out, _ := run("look"); strings.Contains(out, "false") {
		t.Errorf("a container sees\n%s", out)
	}
	if out, code := run("rest"); out != "true\n" || code != 0 {
		t.Errorf("REST server: %q, %d", out, code)
	}
	oom := make(chan string, 1)
	go func() {
		e, err := v.GetOOMEvent(call(t), &agentpb.GetOOMEventRequest{})
		if err != nil {
			oom <- err.Error()
			return
		}
		oom <- e.ContainerId
	}()
	if _, code := run("eater"); code != 137 {
		t.Errorf("eater: exit code %d", code)
	}
	select {
	case id := <-oom:
		if id != "eater" {
			t.Errorf("OOM event for %q", id)
		}
	case <-time.After(10 * time.Second):
		t.Error("no OOM event")
	}
	run("idle")
	s, err := v.StatsContainer(call(t), &agentpb.StatsContainerRequest{ContainerId: "eater"})
	if err != nil || s.CgroupStats.MemoryStats.Usage.Limit != 32<<20 || s.CgroupStats.PidsStats.Limit != 64 || s.CgroupStats.CpuStats.CpuUsage.TotalUsage == 0 {
		t.Errorf("stats %v, %v", s, err)
	}
	time.Sleep(5 * time.Second) // for the memory report
	for line := range strings.Lines(v.Console()) {
		if strings.Contains(line, "PSS") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if _, err := v.DestroySandbox(call(t), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	v.halted()
}

// TestInitdataRules boots with initdata that must stop the guest.
func TestInitdataRules(t *testing.T) {
	p := requireVM(t)
	rd := testGuest(t, p)
	good := device(t, map[string]string{})
	for name, c := range map[string]struct {
		disks [][]byte
		want  string
	}{
		"two devices":         {[][]byte{good, good}, "two initdata devices"},
		"another algorithm":   {[][]byte{encode(t, []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n"))}, "algorithm sha384"},
		"not TOML":            {[][]byte{encode(t, []byte("{"))}, "parsing initdata"},
		"a policy of nothing": {[][]byte{device(t, map[string]string{podpolicy.DataKey: "{}"})}, "initdata member coffer.policy.json"},
	} {
		t.Run(name, func(t *testing.T) {
			v := boot(t, p, rd, c.disks...)
			if out := v.halted(); !strings.Contains(out, "guest halted") || !strings.Contains(out, c.want) {
				t.Errorf("console:\n%s", out)
			}
		})
	}
	t.Run("no device", func(t *testing.T) {
		v := boot(t, p, rd)
		if v.Agent == nil {
			t.Fatal("no agent")
		}
		_, err := v.CreateSandbox(call(t), &agentpb.CreateSandboxRequest{SandboxId: "pod1"})
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `"reason":"no-policy"`) {
			t.Errorf("err = %v", err)
		}
	})
}
