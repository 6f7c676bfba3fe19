package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/cdi"
	"github.com/cofferproject/coffer/host/shim"
)

// nodeConfig is what a node needs to run sealed pods, by flags.
type nodeConfig struct {
	tees                                 []launch.TEE
	platform, bin, cache, etc            string
	snapshotter, snapshotterSocket, root string
	memory, cpu                          string // overhead
	sandboxer                            string
	aliases                              bool
	podResources                         string      // socket of the kubelet's
	devices                              cdi.Allowed // that pods of the classes with devices may be given
}

// class is one RuntimeClass with its handler.
type class struct {
	name string
	tee  launch.TEE
	// alias is a published name of other installers for the same purpose; "": none.
	alias string
	// devices says that its pods may be given devices.
	devices bool
}

// classOf names a TEE's class. What is simulated says so in its name.
func classOf(tee launch.TEE) class {
	c := class{name: "coffer-" + string(tee), tee: tee}
	switch tee {
	case shim.Hardware:
		c.name = "coffer"
	case launch.SNP, launch.TDX, launch.CCA:
		c.alias = "kata-qemu-" + string(tee)
	case launch.SGXSim:
		c.name, c.alias = "coffer-process-sim", "enclave-cc"
	case launch.TPMSim:
		c.alias = "kata-qemu-coco-dev"
	}
	return c
}

// withDevices names the class of k's TEE whose pods may be given devices.
func (k class) withDevices() class {
	k.name, k.alias, k.devices = k.name+"-gpu", "", true
	if k.tee == launch.SNP || k.tee == launch.TDX {
		k.alias = "kata-qemu-nvidia-gpu-" + string(k.tee)
	}
	return k
}

// classes are those that the flags ask for.
func (c *nodeConfig) classes() []class {
	var out []class
	for _, tee := range c.tees {
		k := classOf(tee)
		out = append(out, k)
		if len(c.devices) > 0 && shim.TakesDevices(tee) {
			out = append(out, k.withDevices())
		}
	}
	return out
}

// written is one file of the answer.
type written struct {
	File string `json:"file"`
	For  string `json:"for"`
	body string
}

func configMain(args []string, stdout io.Writer) error {
	c := nodeConfig{}
	fs := flag.NewFlagSet("config", flag.ContinueOnError)
	fs.SetOutput(stdout)
	fs.Usage = func() {
		fmt.Fprint(stdout, "usage: coffer-node config --out DIR --tee TEE...\n\nWrites what containerd and the cluster need for sealed pods: containerd.toml, to be imported\nby containerd's own file; one TOML file for each handler; runtimeclasses.yaml, for kubectl apply.\n"+
			"Nothing outside of DIR is touched. Example:\n\n  coffer-node config --tee tpm-sim --tee sgx-sim --platform /var/lib/coffer/guest/platform.json --out /etc/coffer\n\n")
		fs.PrintDefaults()
	}
	out := fs.String("out", "", "folder for the files; it is where containerd will read them too, unless --etc says otherwise")
	output := fs.String("output", "text", "text or json")
	fs.Func("tee", "kind of TEE that this node's pods may have, such as snp or tpm-sim, or hardware: whichever the node has; may be repeated", func(s string) error {
		if slices.Contains(c.tees, launch.TEE(s)) {
			return errors.New("named twice")
		}
		c.tees = append(c.tees, launch.TEE(s))
		return nil
	})
	fs.Func("device", "CDI kind of device (nvidia.com/pgpu), or a single one (nvidia.com/pgpu=0), that pods may be given: makes a further class coffer-TEE-gpu of each TEE that takes devices; may be repeated", func(s string) error {
		c.devices = append(c.devices, s)
		return c.devices.Check()
	})
	fs.StringVar(&c.podResources, "pod-resources", "", "with --device: socket of the kubelet's PodResources API (/var/lib/kubelet/pod-resources/kubelet.sock); pods then get the devices that the kubelet has given them, and no others")
	fs.StringVar(&c.platform, "platform", "/var/lib/coffer/guest/platform.json", "platform.json of coffer guest build; process TEEs have none")
	fs.StringVar(&c.bin, "bin", "", "folder of Coffer's programs (default: the shim's own)")
	fs.StringVar(&c.cache, "cache", "", "folder for what can be made again (default /var/cache/coffer)")
	fs.StringVar(&c.etc, "etc", "", "folder in which containerd finds the handlers' files (default: --out)")
	fs.StringVar(&c.snapshotter, "snapshotter", "coffer", "name of the proxy plugin that keeps images off the node; empty: images are pulled and unpacked there")
	fs.StringVar(&c.snapshotterSocket, "snapshotter-socket", "/run/coffer/snapshotter.sock", "where coffer-node snapshotter listens")
	fs.StringVar(&c.root, "snapshotter-root", "/var/lib/coffer/snapshotter", "folder of its state")
	fs.StringVar(&c.memory, "overhead-memory", "", "memory of a pod beyond its containers' (default 512Mi, for a process 256Mi)")
	fs.StringVar(&c.cpu, "overhead-cpu", "", "processors of a pod beyond its containers' (default 250m, for a process 100m)")
	fs.StringVar(&c.sandboxer, "sandboxer", sandboxers[0], "how containerd has pods made: podsandbox, by a sandbox's task, or shim, by the sandbox API (containerd 2.x)")
	fs.BoolVar(&c.aliases, "aliases", false, "RuntimeClasses too with the names that other installers give (kata-qemu-snp, kata-qemu-tdx, kata-qemu-nvidia-gpu-snp, kata-qemu-nvidia-gpu-tdx, kata-qemu-coco-dev, enclave-cc), so that manifests need not change")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if fs.NArg() != 0 || *output != "text" && *output != "json" {
		return errors.New("config takes no arguments, and --output text or json")
	}
	if *out == "" {
		return errors.New("--out is missing: a folder for the files")
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	if c.etc == "" {
		c.etc = dir
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	if err := writeAll(dir, files); err != nil {
		return err
	}
	for i := range files {
		files[i].File = filepath.Join(dir, files[i].File)
	}
	if *output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(files)
	}
	for _, f := range files {
		fmt.Fprintf(stdout, "%s: %s\n", f.File, f.For)
	}
	if len(c.devices) > 0 && c.podResources == "" {
		fmt.Fprintln(stdout, "Whoever may make pods of these classes may name any of these devices, another pod's too; with --pod-resources a pod gets what the kubelet has given it.")
	}
	return nil
}

// sandboxers are containerd's names for the ways to make a pod, its default one first.
var sandboxers = []string{"podsandbox", "shim"}

var (
	pluginName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	quantity   = regexp.MustCompile(`^[0-9]+(m|Ki|Mi|Gi)?$`)
)

func (c *nodeConfig) check() error {
	if len(c.tees) == 0 {
		return fmt.Errorf("--tee is missing: %s (what the node has), or which of %v", shim.Hardware, shim.Launched)
	}
	if len(c.devices) > 0 && !slices.ContainsFunc(c.tees, shim.TakesDevices) {
		return fmt.Errorf("--device: pods of %v are given none: name a TEE whose pods are (snp, tdx, hardware), or a simulated VM", c.tees)
	}
	if c.podResources != "" && len(c.devices) == 0 {
		return errors.New("--pod-resources: it is for classes with devices: name some with --device")
	}
	for _, p := range []struct{ flag, path string }{
		{"platform", c.platform}, {"bin", c.bin}, {"cache", c.cache}, {"etc", c.etc}, {"snapshotter-socket", c.snapshotterSocket}, {"snapshotter-root", c.root}, {"pod-resources", c.podResources},
	} {
		if p.path != "" && (!filepath.IsAbs(p.path) || strings.ContainsFunc(p.path, func(r rune) bool { return r < ' ' || r == 0x7F })) {
			return fmt.Errorf("--%s: %q is no absolute path", p.flag, p.path)
		}
	}
	if c.snapshotter != "" && !pluginName.MatchString(c.snapshotter) {
		return fmt.Errorf("--snapshotter: %q is no plugin's name", c.snapshotter)
	}
	if !slices.Contains(sandboxers, c.sandboxer) {
		return fmt.Errorf("--sandboxer: %q is none of %v", c.sandboxer, sandboxers)
	}
	for name, q := range map[string]string{"overhead-memory": c.memory, "overhead-cpu": c.cpu} {
		if q != "" && !quantity.MatchString(q) {
			return fmt.Errorf("--%s: %q is no quantity, such as 512Mi or 250m", name, q)
		}
	}
	return nil
}

// files gives all files, each checked by whoever reads it where that is Coffer.
func (c *nodeConfig) files() ([]written, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var containerd, classes strings.Builder
	containerd.WriteString("# Written by coffer-node config. In containerd's own file: imports = [\"" + filepath.Join(c.etc, "containerd.toml") + "\"]\nversion = 3\n")
	if c.snapshotter != "" {
		fmt.Fprintf(&containerd, "\n[proxy_plugins.%s]\n  type = \"snapshot\"\n  address = %q\n  [proxy_plugins.%[1]s.exports]\n    root = %[3]q\n", c.snapshotter, c.snapshotterSocket, c.root)
		containerd.WriteString("\n[plugins.'io.containerd.cri.v1.images']\n  disable_snapshot_annotations = false\n")
	}
	out := []written{{File: "containerd.toml", For: "containerd's configuration, to be imported by its own file (imports = [...])"}, {File: "runtimeclasses.yaml", For: "kubectl apply -f"}}
	for _, k := range c.classes() {
		file := k.name + ".toml"
		handler, err := c.handler(k)
		if err != nil {
			return nil, fmt.Errorf("--tee %s: %w", k.tee, err)
		}
		out = append(out, written{file, "the handler " + k.name, handler})
		c.runtime(&containerd, k, filepath.Join(c.etc, file))
		c.runtimeClass(&classes, k, k.name)
		if c.aliases && k.alias != "" {
			c.runtimeClass(&classes, k, k.alias)
		}
	}
	out[0].body, out[1].body = containerd.String(), classes.String()
	return out, nil
}

func (c *nodeConfig) handler(k class) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "tee = %q\n", string(k.tee))
	if k.devices {
		fmt.Fprintf(&b, "devices = [%s]\n", quoted(c.devices))
		if c.podResources != "" {
			fmt.Fprintf(&b, "pod_resources = %q\n", c.podResources)
		}
	}
	if !k.tee.Process() {
		fmt.Fprintf(&b, "platform = %q\n", c.platform)
	}
	for key, path := range map[string]string{"bin": c.bin, "cache": c.cache} {
		if path != "" {
			fmt.Fprintf(&b, "%s = %q\n", key, path)
		}
	}
	_, err := shim.ParseConfig([]byte(b.String()))
	return b.String(), err
}

// quoted gives names as the elements of a list in TOML.
func quoted(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, strconv.Quote(n))
	}
	return strings.Join(out, ", ")
}

func (c *nodeConfig) runtime(b *strings.Builder, k class, file string) {
	const runtimes = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes."
	annotations := "  pod_annotations = [\"io.katacontainers.*\"]\n"
	if k.devices {
		const names = cdi.AnnotationPrefix + "*"
		annotations = "  pod_annotations = [" + quoted([]string{"io.katacontainers.*", names}) + "]\n  container_annotations = [" + quoted([]string{names}) + "]\n"
	}
	fmt.Fprintf(b, "\n[%s%s]\n  runtime_type = \"io.containerd.coffer.v2\"\n%s  privileged_without_host_devices = true\n", runtimes, k.name, annotations)
	if c.snapshotter != "" {
		fmt.Fprintf(b, "  snapshotter = %q\n", c.snapshotter)
	}
	if c.sandboxer != sandboxers[0] { // which needs no pause image, and containerd 2.4 can be told so
		fmt.Fprintf(b, "  sandboxer = %q\n  disable_pause_image_pull = true\n", c.sandboxer)
	}
	fmt.Fprintf(b, "  [%s%s.options]\n    ConfigPath = %q\n", runtimes, k.name, file)
	if c.snapshotter != "" {
		fmt.Fprintf(b, "[plugins.'io.containerd.cri.v1.images'.runtime_platforms.%s]\n  snapshotter = %q\n", k.name, c.snapshotter)
	}
}

// overhead gives what a pod of the class takes beyond its containers. The defaults
// have some room above what was measured (docs/performance.md).
func (c *nodeConfig) overhead(k class) (memory, cpu string) {
	memory, cpu = "512Mi", "250m"
	if k.tee.Process() {
		memory, cpu = "256Mi", "100m"
	}
	return cmp.Or(c.memory, memory), cmp.Or(c.cpu, cpu)
}

func (c *nodeConfig) runtimeClass(b *strings.Builder, k class, name string) {
	note := ""
	if k.tee.Simulated() {
		note = "# Simulated: it protects nothing.\n"
	}
	memory, cpu := c.overhead(k)
	fmt.Fprintf(b, "---\n%sapiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: %s}\nhandler: %s\noverhead: {podFixed: {memory: %s, cpu: %s}}\n", note, name, k.name, memory, cpu)
}

// writeAll puts the files into a folder, each whole or not at all.
func writeAll(dir string, files []written) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		tmp, err := os.CreateTemp(dir, "."+f.File+".*")
		if err != nil {
			return err
		}
		_, err = tmp.WriteString(f.body)
		err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
		if err == nil {
			err = os.Rename(tmp.Name(), filepath.Join(dir, f.File))
		}
		if err != nil {
			_ = os.Remove(tmp.Name())
			return fmt.Errorf("writing %s: %w", f.File, err)
		}
	}
	return nil
}
