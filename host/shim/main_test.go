package shim

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cofferproject/coffer/api/launch"
)

func TestAnswerToStart(t *testing.T) {
	boot, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "x", Namespace: "k8s.io", ContainerdVersion: "v2.4.2"})
	if err != nil {
		t.Fatal(err)
	}
	options, err := proto.Marshal(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		said     []byte
		document bool
	}{"containerd 2.3 and later": {boot, true}, "containerd 1.7": {options, false}, "nothing": {nil, false}, "garbage": {[]byte("\xff\xff\xff"), false}} {
		var b bytes.Buffer
		if err := answer(&b, "unix:///run/x", readsJSON(c.said)); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Version           int
			Address, Protocol string
		}
		switch err := json.Unmarshal(b.Bytes(), &doc); {
		case c.document && (err != nil || doc.Version != 3 || doc.Address != "unix:///run/x" || doc.Protocol != "ttrpc"):
			t.Errorf("%s: %s", name, b.String())
		case !c.document && b.String() != "unix:///run/x":
			t.Errorf("%s: %s", name, b.String())
		}
	}
}

func TestConfig(t *testing.T) {
	good := "tee = \"tpm-sim\"\nplatform = \"/p.json\"\n"
	options := func(body string) *anypb.Any {
		b, err := proto.Marshal(&runtimeoptions.Options{ConfigBody: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		return &anypb.Any{Value: b}
	}
	c, err := configOf(options(good))
	if err != nil || c.Variant != "sim" || c.RunDir != DefaultRunDir || c.Cache == "" || c.Bin == "" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := configOf(options("tee = \"sgx-sim\"")); err != nil || c.Variant != "" {
		t.Errorf("a process TEE: %+v, %v", c, err)
	}
	for body, want := range map[string]string{
		"tee = \"sgx-sim\"\nplatform = \"/p\"":   "platform, variant:",
		"platform = \"/p\"":                      "tee: missing",
		"tee = \"snp-simm\"\nplatform = \"/p\"":  "tee:",
		"tee = \"tpm-sim\"\nplatform = \"p\"":    "platform:",
		good + "qemu = \"/bin/sh\"":              "qemu: no such key",
		good + "vcpus = 1000":                    "vcpus",
		good + "cache = \"x\"":                   "cache:",
		good + strings.Repeat("# \n", maxConfig): "longer than",
		"tee = ":                                 "",
	} {
		if _, err := configOf(options(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", body, err, want)
		}
	}
	if _, err := configOf(nil); err == nil {
		t.Error("no options passed")
	}
}

func TestRoles(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		sandbox     string
		is, fails   bool
	}{
		{map[string]string{criType: "sandbox"}, "me", true, false},
		{map[string]string{criType: "container", criSandbox: "pod"}, "pod", false, false},
		{map[string]string{crioType: "sandbox", crioContainer: crioInfra}, "me", true, false},
		{map[string]string{crioType: "container", crioSandbox: "pod", crioContainer: "app"}, "pod", false, false},
		{map[string]string{crioType: "container", crioContainer: "app"}, "", false, true},
		{map[string]string{criType: "container"}, "", false, true},
		{nil, "", false, true},
	} {
		id, is, err := role(&specs.Spec{Annotations: c.annotations}, "me")
		if (err != nil) != c.fails || id != c.sandbox || is != c.is {
			t.Errorf("%v: %q %v %v", c.annotations, id, is, err)
		}
	}
}

func TestSize(t *testing.T) {
	limits := podLimits{memory: 268435456, cpuQuota: 350000, cpuPeriod: 100000}
	for _, c := range []struct {
		annotations map[string]string
		limits      podLimits
		mib, cpus   int
	}{
		{nil, podLimits{}, 512, 2},
		{nil, podLimits{memory: -1, cpuQuota: -1, cpuPeriod: 100000}, 512, 2},
		{nil, limits, 768, 4},
		{map[string]string{launch.AnnotationMemory: "384", launch.AnnotationVCPUs: "3"}, limits, 384, 3},
	} {
		mib, cpus, err := size(&Config{}, c.annotations, c.limits)
		if err != nil || mib != c.mib || cpus != c.cpus {
			t.Errorf("%v: %d MiB, %d vCPUs, %v", c.annotations, mib, cpus, err)
		}
	}
	if mib, cpus, err := size(&Config{}, nil, podLimits{memory: math.MaxInt64, cpuQuota: math.MaxInt64, cpuPeriod: 1}); err == nil {
		t.Errorf("%d MiB, %d vCPUs for all there is", mib, cpus)
	}
	if mib, cpus, err := size(&Config{MaxMemoryMiB: 512, MaxVCPUs: 2}, map[string]string{launch.AnnotationMemory: "768"}, podLimits{}); err == nil {
		t.Errorf("%d MiB, %d vCPUs beyond the bound", mib, cpus)
	}
	for _, bad := range []map[string]string{{launch.AnnotationMemory: "lots"}, {launch.AnnotationVCPUs: "65"}, {launch.AnnotationMemory: "99999999999"}, {launch.AnnotationVCPUs: "-1"}} {
		if mib, cpus, err := size(&Config{}, bad, podLimits{}); err == nil {
			t.Errorf("%v: %d MiB, %d vCPUs", bad, mib, cpus)
		}
	}
}
