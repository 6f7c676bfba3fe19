package zones

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// binary says what one binary links: of ours by zone, of others by what is
// forbidden.
type binary struct {
	cgo    bool
	zones  []string // of ours, beside its own cmd folder
	forbid []rule
}

// rule forbids packages: the one with the given path and all below it, except
// those listed. A path may have one "*" in place of one element.
type rule struct {
	path   string
	except []string
	why    string
}

var (
	noCgo = rule{path: "runtime/cgo", why: "cgo: memory-unsafe code in the process"}
	noOPA = rule{path: "github.com/open-policy-agent", why: "the policy is typed; Rego runs in a process of its own"}
	// ttrpc reports errors with grpc's codes and status; these are what those two need.
	noGRPC = rule{path: "google.golang.org/grpc", why: "a second RPC stack in the trusted computing base", except: []string{
		"google.golang.org/grpc/codes", "google.golang.org/grpc/status",
		"google.golang.org/grpc/internal", "google.golang.org/grpc/internal/status",
		"google.golang.org/grpc/connectivity", "google.golang.org/grpc/serviceconfig",
		"google.golang.org/grpc/grpclog", "google.golang.org/grpc/grpclog/internal",
	}}
	noSim      = rule{path: module + "/tee/*/sim", why: "simulated attesters are for coffer-guest-sim alone"}
	noSimPort  = rule{path: module + "/api/simhw", why: "the way to simulated hardware is for coffer-guest-sim alone"}
	noVerifier = rule{path: module + "/tee/*/verifier", why: "the guest makes evidence and judges none"}
	noMeasure  = rule{path: module + "/tee/*/measure", why: "what is expected is not the guest's to compute"}
	noTest     = rule{path: module + "/test", why: "test code in a product"}
	noOcicrypt = rule{path: "github.com/containers/ocicrypt", why: "it pulls in gRPC; image/ocicrypt decrypts"}
	noHSM      = rule{path: "github.com/miekg/pkcs11", why: "a security module's library in the process that has the secrets"}
	noExec     = rule{path: "plugin", why: "code from outside the measured image"}
)

// binaries has a row for every folder of cmd/; a new binary needs one.
var binaries = map[string]binary{
	"coffer": {
		zones:  []string{"owner", "api", "tee", "image"},
		forbid: []rule{noCgo, noTest, noSim},
	},
	"coffer-node": {
		zones:  []string{"host", "api"},
		forbid: []rule{noCgo, noTest, noOPA},
	},
	"containerd-shim-coffer-v2": { // one process for each pod; gRPC comes with containerd's messages
		zones:  []string{"host", "api"},
		forbid: []rule{noCgo, noTest, noOPA},
	},
	"coffer-simhw": { // plays hardware, so it may know every TEE; it judges nothing
		zones:  []string{"host", "api", "tee"},
		forbid: []rule{noCgo, noTest, noOPA},
	},
	"coffer-trustee": {
		zones:  []string{"trustee", "api", "tee"},
		forbid: []rule{noCgo, noTest, noSim, noHSM},
	},
	"coffer-pkcs11": { // the one with cgo: a module's library is in no other process
		zones: []string{"api"}, cgo: true,
		forbid: []rule{noTest, noOPA, noSim},
	},
	"coffer-guest": {
		zones:  []string{"guest", "api", "tee", "image"},
		forbid: []rule{noCgo, noTest, noOPA, noGRPC, noSim, noSimPort, noVerifier, noMeasure, noOcicrypt, noExec},
	},
	"coffer-guest-sim": {
		zones:  []string{"guest", "api", "tee", "image"},
		forbid: []rule{noCgo, noTest, noOPA, noGRPC, noVerifier, noMeasure, noOcicrypt, noExec},
	},
}

func (r rule) matches(path string) bool {
	if slices.Contains(r.except, path) {
		return false
	}
	want, have := strings.Split(r.path, "/"), strings.Split(path, "/")
	if len(have) < len(want) {
		return false
	}
	for i, w := range want {
		if w != "*" && w != have[i] {
			return false
		}
	}
	return true
}

// wrong lists what a binary links and must not.
func (b binary) wrong(name string, deps []string) []string {
	var bad []string
	for _, d := range deps {
		if z := zone(d); z != "" && d != module+"/cmd/"+name && !slices.Contains(b.zones, z) {
			bad = append(bad, d+": not of its zones "+strings.Join(b.zones, ", "))
		}
		for _, r := range b.forbid {
			if r.matches(d) {
				bad = append(bad, d+": "+r.why)
			}
		}
	}
	// Both register the same protobuf names and panic when they meet.
	if slices.Contains(deps, module+"/api/keyproviderpb") && slices.ContainsFunc(deps, func(d string) bool {
		return strings.HasPrefix(d, "github.com/containers/ocicrypt/utils/keyprovider")
	}) {
		bad = append(bad, "api/keyproviderpb and ocicrypt's stubs of the same service")
	}
	return bad
}

// TestBinaries checks what each binary links.
func TestBinaries(t *testing.T) {
	dirs, err := filepath.Glob("../../cmd/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no binaries: %v", err)
	}
	for _, d := range dirs {
		name := filepath.Base(d)
		t.Run(name, func(t *testing.T) {
			b, ok := binaries[name]
			if !ok {
				t.Fatalf("cmd/%s has no row in the table of binaries: say which zone it is of", name)
			}
			if src, _ := filepath.Glob(filepath.Join(d, "*.go")); len(src) == 0 {
				t.Fatalf("cmd/%s has no code", name)
			}
			for _, w := range b.wrong(name, listWith(t, b.cgo, "-deps", "-f", "{{.ImportPath}}", module+"/cmd/"+name)) {
				t.Errorf("links %s", w)
			}
		})
	}
	for name := range binaries {
		if _, err := os.Stat(filepath.Join("../../cmd", name)); err != nil {
			t.Errorf("row for %s: %v", name, err)
		}
	}
}

// TestBinaryRulesCanFail feeds each rule what it is there to find.
func TestBinaryRulesCanFail(t *testing.T) {
	g := binaries["coffer-guest"]
	for _, d := range []string{
		"google.golang.org/grpc", "google.golang.org/grpc/internal/transport", "github.com/open-policy-agent/opa/rego",
		"runtime/cgo", module + "/tee/tpm/sim", module + "/tee/simhw/sim", module + "/api/simhw", module + "/tee/tpm/verifier", module + "/host/vmm", module + "/trustee/kbs",
		module + "/owner/pod", "github.com/containers/ocicrypt", module + "/cmd/coffer",
	} {
		if len(g.wrong("coffer-guest", []string{d})) == 0 {
			t.Errorf("%s would pass in coffer-guest", d)
		}
	}
	for _, d := range []string{"google.golang.org/grpc/codes", "google.golang.org/grpc/status", module + "/tee/tpm/attester", module + "/cmd/coffer-guest", "net/http"} {
		if w := g.wrong("coffer-guest", []string{d}); len(w) != 0 {
			t.Errorf("%s: %v", d, w)
		}
	}
	if len(binaries["coffer-guest-sim"].wrong("coffer-guest-sim", []string{module + "/tee/tpm/sim"})) != 0 {
		t.Error("coffer-guest-sim may not link what it is for")
	}
	if len((binary{zones: []string{"api"}}).wrong("x", []string{module + "/api/keyproviderpb", "github.com/containers/ocicrypt/utils/keyprovider"})) == 0 {
		t.Error("both key-provider stubs would pass")
	}
}
