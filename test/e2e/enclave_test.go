package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/owner/gramine"
	"github.com/cofferproject/coffer/owner/run"
)

const redisPod = `apiVersion: v1
kind: Pod
metadata: {name: store}
spec:
  containers:
  - name: redis
    image: redis
    command: [redis-server, /etc/redis.conf]
    resources: {limits: {memory: 300Mi, cpu: "1"}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
`

// TestEnclaveManifest goes the owner's way to Gramine's manifest, with an image of
// Debian's packages: coffer seal, coffer sgx manifest.
func TestEnclaveManifest(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	shared.startTrustee(t, home, "")
	file, _ := shared.seal(t, home, redisPod)
	libos, out := write(t, home, "libsysdb.so", "stands for the library OS"), filepath.Join(home, "enclave")
	var e run.Enclave
	if err := json.Unmarshal([]byte(shared.must(t, home, "sgx", "manifest", file, "--registries", shared.registries, "--libos", libos, "--persist", "data=mrenclave", "--out", out, "--output", "json")), &e); err != nil {
		t.Fatal(err)
	}
	var m gramine.Manifest
	if _, err := toml.DecodeFile(e.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if e.EnclaveSize != "512M" || e.MaxThreads != 20 || filepath.Base(m.LibOS.Entrypoint) != "redis-server" || len(m.Loader.Argv) != 2 {
		t.Errorf("%+v %+v", e, m.Loader)
	}
	names := map[string]bool{}
	for _, f := range m.SGX.TrustedFiles {
		b, err := os.ReadFile(filepath.Join(out, strings.TrimPrefix(f.URI, "file:")))
		if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != f.SHA256 {
			t.Fatalf("%s: %v, or another digest", f.URI, err)
		}
		names[f.URI] = true
	}
	for _, n := range []string{"file:rootfs" + m.LibOS.Entrypoint, "file:rootfs/lib64/ld-linux-x86-64.so.2", "file:rootfs/usr/lib64/ld-linux-x86-64.so.2"} {
		if !names[n] {
			t.Errorf("%s is not among the %d trusted files", n, len(names))
		}
	}
	if _, errout, code := shared.coffer(t, home, "sgx", "manifest", file, "--registries", shared.registries, "--libos", libos, "--out", out); code != 120 || !strings.Contains(errout, "file exists") {
		t.Errorf("a second time: exit code %d, %s", code, errout)
	}
}
