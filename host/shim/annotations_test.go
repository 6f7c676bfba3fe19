package shim

import (
	"strings"
	"testing"
)

// published are the annotations of the existing runtime, by what becomes of each here:
// "" is taken or passed over, else a word of the refusal.
var published = map[string]string{
	"io.katacontainers.config.hypervisor.cc_init_data":               "",
	"io.katacontainers.config.hypervisor.default_memory":             "",
	"io.katacontainers.config.hypervisor.default_vcpus":              "",
	"io.katacontainers.config.runtime.create_container_timeout":      "",
	"io.katacontainers.config.runtime.experimental_force_guest_pull": "",
	"io.katacontainers.config.runtime.sandbox_cgroup_only":           "",
	"io.katacontainers.config.runtime.disable_new_netns":             "",

	"io.katacontainers.config.hypervisor.path":                 "machine",
	"io.katacontainers.config.hypervisor.kernel":               "machine",
	"io.katacontainers.config.hypervisor.image":                "machine",
	"io.katacontainers.config.hypervisor.initrd":               "machine",
	"io.katacontainers.config.hypervisor.firmware":             "machine",
	"io.katacontainers.config.hypervisor.kernel_params":        "machine",
	"io.katacontainers.config.hypervisor.kernel_verity_params": "machine",
	"io.katacontainers.config.hypervisor.machine_type":         "machine",
	"io.katacontainers.config.hypervisor.default_max_vcpus":    "machine",
	"io.katacontainers.config.hypervisor.memory_slots":         "machine",
	"io.katacontainers.config.hypervisor.enable_iommu":         "machine",
	"io.katacontainers.config.hypervisor.shared_fs":            "machine",
	"io.katacontainers.config.hypervisor.block_device_driver":  "machine",
	"io.katacontainers.config.hypervisor.default_gpus":         "machine",
	"io.katacontainers.config.hypervisor.default_gpu_model":    "machine",
	"io.katacontainers.config.runtime.disable_guest_seccomp":   "handler's file",
	"io.katacontainers.config.runtime.internetworking_model":   "handler's file",
	"io.katacontainers.config.runtime.vfio_mode":               "handler's file",
	"io.katacontainers.config.runtime.experimental":            "handler's file",
	"io.katacontainers.config.runtime.enable_pprof":            "handler's file",
	"io.katacontainers.config.agent.kernel_modules":            "agent",
	"io.katacontainers.config.agent.enable_tracing":            "agent",
	"io.katacontainers.config.agent.container_pipe_size":       "agent",
	"io.katacontainers.config.agent.policy":                    "initdata",
	"io.katacontainers.container.resource.swappiness":          "swap",
	"io.katacontainers.container.resource.swap_in_bytes":       "swap",
	"io.katacontainers.anything.else":                          "none that Coffer knows",
}

func TestAnnotations(t *testing.T) {
	for key, want := range published {
		err := checkAnnotations(map[string]string{key: "x", criType: "sandbox", "example.org/own": "x"})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", key, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", key, err, want)
		}
	}
	if err := checkAnnotations(nil); err != nil {
		t.Error(err)
	}
}
