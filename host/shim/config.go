package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/cdi"
)

// maxConfig is the largest configuration, in bytes.
const maxConfig = 64 << 10

// Config is what the node's administrator says of one runtime handler, as TOML:
// in containerd's configuration under the handler's options, or in the file that
// ConfigPath names there. A pod's author cannot change any of it.
type Config struct {
	// TEE is the kind of TEE of this handler's pods: "snp", "tdx", "tpm-sim", ..., or
	// Hardware.
	TEE launch.TEE `toml:"tee"`
	// Platform is platform.json, made by coffer guest build; a process TEE has none.
	Platform string `toml:"platform"`
	// Variant is the guest image's; "": the one of the TEE, "sim" or "release".
	Variant string `toml:"variant"`
	// Bin is the folder of coffer-node and coffer-simhw, and for process TEEs of
	// coffer-runsc and coffer-guest-sim; "": the shim's own.
	Bin string `toml:"bin"`
	// Cache keeps what can be made again; "": /var/cache/coffer.
	Cache string `toml:"cache"`
	// RunDir holds a folder for each running pod; "": /run/coffer/shim.
	RunDir string `toml:"run_dir"`
	// KubeletDir is the kubelet's --root-dir, and DirectVolumes where drivers keep the
	// records of direct-assigned volumes; "": the usual ones.
	KubeletDir    string `toml:"kubelet_dir"`
	DirectVolumes string `toml:"direct_volumes"`
	// MemoryMiB and VCPUs size the VM of a pod that carries no size and has no
	// limits; 0: the smallest that Coffer's guest is used with.
	MemoryMiB int `toml:"memory_mib"`
	VCPUs     int `toml:"vcpus"`
	// NoPodCgroup leaves the TEE's processes out of the pod's control group, where
	// the kubelet counts and bounds them: for classes without an overhead.
	NoPodCgroup bool `toml:"no_pod_cgroup"`
	// MaxMemoryMiB and MaxVCPUs bound what a pod's annotations may ask for, since
	// the scheduler does not see them; 0: no bound.
	MaxMemoryMiB int `toml:"max_memory_mib"`
	MaxVCPUs     int `toml:"max_vcpus"`
	// Devices are the devices by CDI name that its pods may be given: kinds
	// ("nvidia.com/pgpu") and single ones ("nvidia.com/pgpu=0"); empty: none. CDIDirs
	// are the folders of CDI specifications; empty: cdi.DefaultDirs.
	Devices cdi.Allowed `toml:"devices"`
	CDIDirs []string    `toml:"cdi_dirs"`
	// PodResources is the socket of the kubelet's PodResources API: then a pod has the
	// devices that the kubelet has given it, and its annotations name no others; "":
	// annotations alone say them.
	PodResources string `toml:"pod_resources"`
	root         string // where /sys is: "" is "/"
	// MaxDiskGiB bounds the disks that are made for a pod, all together; 0: no bound.
	MaxDiskGiB int `toml:"max_disk_gib"`
}

// Hardware in the place of a TEE is the one that the node has; a node without one runs
// no such pod.
const Hardware launch.TEE = "hardware"

// Launched are the TEEs that a handler may name. SEV, SEV-ES and Secure Execution are
// not among them: their launches bind no initdata, without which a pod has no policy.
var Launched = append(slices.Clone(bound), launch.SimulatedTEEs...)

// bound are the TEEs of hardware whose launch binds initdata, the one first that a node
// with several would use.
var bound = []launch.TEE{launch.SNP, launch.TDX, launch.CCA}

// Defaults of Config.
const (
	DefaultRunDir = "/run/coffer/shim"
	defaultCache  = "/var/cache/coffer"

	defaultKubeletDir    = "/var/lib/kubelet"
	defaultDirectVolumes = "/run/kata-containers/shared/direct-volumes"
)

// ParseConfig reads a configuration. Unknown keys are errors.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("longer than %d bytes", maxConfig)
	}
	c := new(Config)
	md, err := toml.Decode(string(b), c)
	if err != nil {
		return nil, err
	}
	if un := md.Undecoded(); len(un) > 0 {
		return nil, fmt.Errorf("%s: no such key", un[0])
	}
	switch {
	case c.TEE == "":
		return nil, errors.New("tee: missing")
	case c.TEE != Hardware && !slices.Contains(Launched, c.TEE):
		return nil, fmt.Errorf("tee: %q is none that this build launches %v, nor %q", c.TEE, Launched, Hardware)
	case c.TEE.Process() && (c.Platform != "" || c.Variant != ""):
		return nil, fmt.Errorf("platform, variant: %s has no guest image: leave them out", c.TEE)
	case !c.TEE.Process() && !filepath.IsAbs(c.Platform):
		return nil, fmt.Errorf("platform: %q is no absolute path", c.Platform)
	case c.MemoryMiB < 0 || c.VCPUs < 0 || c.VCPUs > launch.MaxVCPUs || c.MaxMemoryMiB < 0 || c.MaxVCPUs < 0 || c.MaxDiskGiB < 0:
		return nil, errors.New("memory_mib, vcpus, max_memory_mib, max_vcpus or max_disk_gib: out of range")
	}
	if err := c.checkDevices(); err != nil {
		return nil, err
	}
	for _, p := range []struct{ key, path string }{{"bin", c.Bin}, {"cache", c.Cache}, {"run_dir", c.RunDir}, {"pod_resources", c.PodResources}, {"kubelet_dir", c.KubeletDir}, {"direct_volumes", c.DirectVolumes}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return nil, fmt.Errorf("%s: %q is no absolute path", p.key, p.path)
		}
	}
	if c.Variant == "" && !c.TEE.Process() {
		c.Variant = "release"
		if c.TEE.Simulated() {
			c.Variant = "sim"
		}
	}
	if c.Cache == "" {
		c.Cache = defaultCache
	}
	for _, d := range []struct {
		p   *string
		def string
	}{{&c.RunDir, DefaultRunDir}, {&c.KubeletDir, defaultKubeletDir}, {&c.DirectVolumes, defaultDirectVolumes}} {
		if *d.p == "" {
			*d.p = d.def
		}
	}
	if c.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		c.Bin = filepath.Dir(self)
	}
	return c, nil
}

// checkDevices refuses a list of devices that no pod of the handler could be given.
func (c *Config) checkDevices() error {
	if len(c.Devices) > 0 && !TakesDevices(c.TEE) {
		return fmt.Errorf("devices: a pod of %s is given none", c.TEE)
	}
	if err := c.Devices.Check(); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	for _, d := range c.CDIDirs {
		if !filepath.IsAbs(d) {
			return fmt.Errorf("cdi_dirs: %q is no absolute path", d)
		}
	}
	return nil
}

// TakesDevices reports whether pods of a TEE can be given devices: the node's, or
// simulated ones beside a simulated TEE.
func TakesDevices(tee launch.TEE) bool {
	return tee == Hardware || tee.TakesHostDevices() || tee.Played()
}
