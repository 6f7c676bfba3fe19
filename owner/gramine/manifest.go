// Package gramine writes what Gramine needs to run a container of a sealed pod in
// an SGX enclave: a manifest that names every file by its digest, and the files.
//
// Invariants: what the pod policy says of the container is in the manifest, or the
// container is refused with the field's name; nothing that the host may choose
// (arguments, environment, files, keys) is left open; one input gives one output.
//
// Never run on SGX: golden-tested against the published manifest syntax (Gramine,
// "Manifest syntax").
//
// Trust zone: owner.
package gramine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// Manifest is the TOML document.
type Manifest struct {
	Loader Loader `toml:"loader"`
	LibOS  LibOS  `toml:"libos"`
	Sys    Sys    `toml:"sys"`
	FS     FS     `toml:"fs"`
	SGX    SGX    `toml:"sgx"`
}

// Loader is [loader]: what the library OS starts with.
type Loader struct {
	Entrypoint string            `toml:"entrypoint"` // URI of the library OS
	LogLevel   string            `toml:"log_level"`
	Argv       []string          `toml:"argv"`
	UID        uint32            `toml:"uid"`
	GID        uint32            `toml:"gid"`
	Env        map[string]string `toml:"env"`
}

// LibOS is [libos].
type LibOS struct {
	Entrypoint string `toml:"entrypoint"` // path inside
}

// Sys is [sys].
type Sys struct {
	SIGTERM bool `toml:"enable_sigterm_injection"`
	Names   bool `toml:"enable_extra_runtime_domain_names_conf"`
}

// FS is [fs].
type FS struct {
	StartDir string  `toml:"start_dir"`
	Root     Mount   `toml:"root"`
	Mounts   []Mount `toml:"mounts"`
}

// Mount is a mount point.
type Mount struct {
	Type    string `toml:"type"` // "chroot", "encrypted" or "tmpfs"
	Path    string `toml:"path,omitempty"`
	URI     string `toml:"uri,omitempty"`
	KeyName string `toml:"key_name,omitempty"`
}

// SGX is [sgx].
type SGX struct {
	Debug             bool          `toml:"debug"`
	EnclaveSize       string        `toml:"enclave_size"`
	MaxThreads        int           `toml:"max_threads"`
	ProductID         uint16        `toml:"isvprodid"`
	SVN               uint16        `toml:"isvsvn"`
	RemoteAttestation string        `toml:"remote_attestation"`
	FileCheckPolicy   string        `toml:"file_check_policy"`
	TrustedFiles      []TrustedFile `toml:"trusted_files"`
}

// TrustedFile is a file that is opened only if it has this digest.
type TrustedFile struct {
	URI    string `toml:"uri"`
	SHA256 string `toml:"sha256"`
}

// Keys that Gramine derives of the enclave's identity, by what they are bound to.
var sealingKeys = map[string]string{"mrenclave": "_sgx_mrenclave", "mrsigner": "_sgx_mrsigner"}

// Input is everything that a manifest is made of.
type Input struct {
	Policy    *podpolicy.Policy
	Container *podpolicy.Container // of Policy
	Env       []string             // the container's whole environment, NAME=value
	// Encrypted says that the image's layers are: its files are then an encrypted
	// tree whose key the enclave is handed, under the name ImageKey.
	Encrypted bool
	Files     []File                                    // of the image, if it is not encrypted
	Entry     func(args0 string) (string, error)        // the program's path inside, from args[0]
	User      func(image string) (uint32, uint32, bool) // of the image's USER string
	LibOS     File                                      // the library OS; Path is where it is in the output folder
	Runtime   []File                                    // its C library and loader; likewise, below RuntimeDir

	Content        map[string]map[string][]byte // of the volumes' files: volume, path
	Persist        map[string]string            // volume: "mrenclave", "mrsigner", or the name of a key that is handed over
	EnclaveBytes   int64                        // 0: from the memory limit
	Threads        int                          // 0: from the CPU limit
	ProductID, SVN uint16
}

// Names in the output folder and in manifests.
const (
	ImageKey   = "coffer_image"
	RuntimeDir = "runtime"
	volumesDir = "volumes"
	runtimeAt  = "/gramine-runtime"
	hostsFile  = "hosts"

	sealedPrefix = "sealed." // of a sealed secret (api/sealedsecret)
)

// Sizes of enclaves.
const (
	libraryOSBytes  = 128 << 20 // what the library OS takes of an enclave
	minEnclaveBytes = 256 << 20
	maxEnclaveBytes = 512 << 30
	helperThreads   = 4  // the library OS's own
	threadsPerCPU   = 16 // runtimes such as Go's have more threads than CPUs
	defaultCPUs     = 2
	maxThreads      = 4096
)

// Problem is why a container cannot run in an enclave.
type Problem struct{ Field, Reason string }

// Problems are all of them; an error.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	for i, x := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s", x.Field, x.Reason)
	}
	return b.String()
}

type generator struct {
	in       *Input
	m        *Manifest
	problems Problems
	hosts    []byte
	notes    []string
}

func (g *generator) no(field, format string, args ...any) {
	g.problems = append(g.problems, Problem{"containers[" + g.in.Container.Name + "]." + field, fmt.Sprintf(format, args...)})
}

// Result is a manifest with what goes with it.
type Result struct {
	Manifest *Manifest
	Hosts    []byte   // content of the file hosts
	Notes    []string // what the policy lets the host give and the enclave does not take
}

func (g *generator) note(text string) { g.notes = append(g.notes, text) }

// Generate makes the manifest. What the policy demands and an enclave cannot do is
// in the error, all of it (Problems).
func Generate(in *Input) (*Result, error) {
	g := &generator{in: in, m: &Manifest{
		Loader: Loader{Entrypoint: "file:" + in.LibOS.Path, LogLevel: "error", Argv: in.Container.Args, Env: map[string]string{}},
		Sys:    Sys{SIGTERM: true, Names: in.Policy.Sandbox.ResolvConf == "host"},
		FS:     FS{StartDir: in.Container.Cwd},
		SGX:    SGX{ProductID: in.ProductID, SVN: in.SVN, RemoteAttestation: "dcap", FileCheckPolicy: "strict"},
	}}
	g.refuse()
	g.program()
	g.files()
	g.volumes()
	// One mount point in another is mounted after it.
	slices.SortStableFunc(g.m.FS.Mounts, func(a, b Mount) int { return strings.Count(a.Path, "/") - strings.Count(b.Path, "/") })
	g.size()
	if len(g.problems) > 0 {
		return nil, g.problems
	}
	return &Result{Manifest: g.m, Hosts: g.hosts, Notes: g.notes}, nil
}

// refuse finds what no enclave under Gramine keeps.
func (g *generator) refuse() {
	c, p := g.in.Container, g.in.Policy
	if len(c.Exec) > 0 {
		g.no("exec", "nobody starts a process in an enclave from outside: seal without --allow-exec, and without exec probes and hooks")
	}
	if !c.Logs {
		g.no("logs", "what the program prints goes to the host: a library OS keeps it from nobody")
	}
	if c.ServiceLinks != "" {
		g.note("variables of services: there are none, since no measurement holds the host's words")
	}
	if len(c.Devices) > 0 {
		g.no("volumeDevices", "an enclave has no devices: use volumeMode Filesystem")
	}
	if c.Termination != "" {
		g.no("terminationMessagePath", "nobody brings an enclave's last words to the kubelet: leave it out")
	}
	if p.Sandbox.SharePIDs {
		g.no("share_pids", "each container is an enclave of its own: leave shareProcessNamespace out")
	}
	if len(p.Sandbox.Sysctls) > 0 {
		g.no("sysctls", "the library OS has none to set: leave securityContext.sysctls out")
	}
	if c.Terminal {
		g.no("tty", "there are no terminals in an enclave")
	}
}

// program sets what runs, as whom, with which environment.
func (g *generator) program() {
	c := g.in.Container
	entry, err := g.in.Entry(c.Args[0])
	if err != nil {
		g.no("args[0]", "%v", err)
	}
	g.m.LibOS.Entrypoint = entry
	uid, gid, ok := g.in.User(c.User.Image)
	switch {
	case c.User.UID != nil:
		uid, ok = *c.User.UID, true
	case !ok:
		g.no("user", "the image's user %q is a name that its passwd file does not have: set securityContext.runAsUser", c.User.Image)
	}
	if c.User.GID != nil {
		gid = *c.User.GID
	}
	if ok && uid == 0 && c.User.NonRoot {
		g.no("user", "runAsNonRoot, and the user is root")
	}
	g.m.Loader.UID, g.m.Loader.GID = uid, gid
	for i, e := range c.Env {
		if e.From != "" {
			g.no("env["+e.Name+"]", "its value is the host's word (%s), which no measurement holds", e.From)
			continue
		}
		name, value, ok := strings.Cut(g.in.Env[i], "=")
		if !ok || name != e.Name {
			g.no("env["+e.Name+"]", "has no value")
			continue
		}
		if strings.HasPrefix(value, sealedPrefix) {
			g.no("env["+name+"]", "is a sealed secret, which only Coffer's guest opens: let the program ask the trustee, or mount an encrypted volume")
			continue
		}
		if e.SHA256 != "" {
			g.note("env[" + name + "]: its value, of a Secret, is in the manifest, which the host reads; what is secret from it comes from the trustee")
		}
		g.m.Loader.Env[name] = value
	}
	if len(g.in.Runtime) > 0 {
		if v, ok := g.m.Loader.Env["LD_LIBRARY_PATH"]; ok && v != "" {
			g.m.Loader.Env["LD_LIBRARY_PATH"] = runtimeAt + ":" + v
		} else {
			g.m.Loader.Env["LD_LIBRARY_PATH"] = runtimeAt
		}
	}
}

// files sets what can be opened.
func (g *generator) files() {
	in := g.in
	g.m.FS.Root = Mount{Type: "chroot", URI: "file:" + rootfsDir}
	if in.Encrypted {
		g.m.FS.Root = Mount{Type: "encrypted", URI: "file:" + rootfsDir, KeyName: ImageKey}
	}
	g.trust(in.LibOS.Path, in.LibOS.SHA256)
	if len(in.Runtime) > 0 {
		g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "chroot", Path: runtimeAt, URI: "file:" + RuntimeDir})
		for _, f := range in.Runtime {
			g.trust(path.Join(RuntimeDir, f.Path), f.SHA256)
		}
	}
	if !in.Encrypted {
		for _, f := range in.Files {
			g.trust(path.Join(rootfsDir, f.Path), f.SHA256)
		}
	}
	for _, dir := range slices.Sorted(slices.Values(in.Container.ImageVolumes)) {
		g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "tmpfs", Path: dir})
	}
	g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "tmpfs", Path: "/dev/shm"})
	g.hosts = hostsOf(in.Policy)
	g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "chroot", Path: "/etc/hosts", URI: "file:" + hostsFile})
	g.trust(hostsFile, digestOf(g.hosts))
}

func (g *generator) trust(file, sha256 string) {
	g.m.SGX.TrustedFiles = append(g.m.SGX.TrustedFiles, TrustedFile{URI: "file:" + file, SHA256: sha256})
}

// hostsOf gives the file /etc/hosts, as the guest would make it but for the pod's
// address, which nobody knows ahead.
func hostsOf(p *podpolicy.Policy) []byte {
	b := bytes.NewBufferString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, a := range p.Sandbox.Hosts {
		fmt.Fprintf(b, "%s\t%s\n", a.IP, strings.Join(a.Names, " "))
	}
	return b.Bytes()
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// volumes mounts them: files by digest, empty folders in memory or encrypted.
func (g *generator) volumes() {
	in := g.in
	unused := maps.Clone(in.Persist)
	for _, mnt := range in.Container.Mounts {
		i := slices.IndexFunc(in.Policy.Volumes, func(v podpolicy.Volume) bool { return v.Name == mnt.Volume })
		if i < 0 {
			g.no("mounts["+mnt.Destination+"]", "the policy has no volume %s", mnt.Volume)
			continue
		}
		v := &in.Policy.Volumes[i]
		delete(unused, v.Name)
		switch v.Kind {
		case podpolicy.VolumeFiles:
			g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "chroot", Path: mnt.Destination, URI: "file:" + path.Join(volumesDir, v.Name, mnt.SubPath)})
			for _, name := range v.FileNames() {
				if bytes.HasPrefix(in.Content[v.Name][name], []byte(sealedPrefix)) {
					g.no("mounts["+mnt.Destination+"]", "file %s of volume %s is a sealed secret, which only Coffer's guest opens", name, v.Name)
				}
				uri := path.Join(volumesDir, v.Name, name)
				if !slices.ContainsFunc(g.m.SGX.TrustedFiles, func(f TrustedFile) bool { return f.URI == "file:"+uri }) {
					g.trust(uri, v.Files[name].SHA256)
				}
			}
		case podpolicy.VolumeEmptyDir:
			g.emptyDir(v, &mnt)
		case podpolicy.VolumeDisk:
			g.disk(v, &mnt)
		case podpolicy.VolumeServiceAccount:
			g.note(mnt.Destination + ": is empty, since no measurement holds the host's words")
			g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "tmpfs", Path: mnt.Destination})
		default:
			g.no("mounts["+mnt.Destination+"]", "volume %s is of kind %s", v.Name, v.Kind)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		g.no("mounts", "no volume %s to persist", name)
	}
}

func (g *generator) emptyDir(v *podpolicy.Volume, mnt *podpolicy.Mount) {
	field := "mounts[" + mnt.Destination + "]"
	g.alone(v, field)
	key, persists := g.in.Persist[v.Name]
	if !persists {
		if mnt.SubPath != "" {
			g.no(field, "subPath of an emptyDir in memory")
		}
		g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "tmpfs", Path: mnt.Destination})
		return
	}
	g.encrypted(v, mnt, key)
}

// alone refuses a volume that several containers write to.
func (g *generator) alone(v *podpolicy.Volume, field string) {
	if n := g.in.mounters(v.Name); n > 1 {
		g.no(field, "volume %s is in %d containers: each is an enclave of its own, and they share no memory", v.Name, n)
	}
}

// disk is a volume that the policy keeps beyond the pod: by the sealing key that it
// names, or by a key that is handed over. One that ends with the pod is in memory.
func (g *generator) disk(v *podpolicy.Volume, mnt *podpolicy.Mount) {
	key := g.in.Persist[v.Name]
	if key == "" && !v.Kept() {
		g.emptyDir(v, mnt)
		return
	}
	g.alone(v, "mounts["+mnt.Destination+"]")
	switch {
	case key != "":
	case v.Sealing != "" && v.Key != "":
		g.no("mounts["+mnt.Destination+"]", "volume %s has a sealing key and one of the trustee's, and Gramine takes one: say which with --persist", v.Name)
	case v.Sealing != "":
		key = v.Sealing
	default:
		if key = v.Name; sealingKeys[key] != "" {
			g.no("mounts["+mnt.Destination+"]", "volume %s has the name of a sealing key, and a key of the trustee's: name that with --persist", v.Name)
		}
		g.note(fmt.Sprintf("%s: key %s is to be handed over: %s of the trustee", mnt.Destination, key, v.Key))
	}
	g.encrypted(v, mnt, key)
}

// encrypted mounts a volume whose files are encrypted with a key.
func (g *generator) encrypted(v *podpolicy.Volume, mnt *podpolicy.Mount, key string) {
	field := "mounts[" + mnt.Destination + "]"
	name, ok := sealingKeys[key]
	if !ok {
		name = key
	}
	if name == ImageKey || !keyName(name) {
		g.no(field, "key %q: mrenclave, mrsigner, or a name of letters, digits, - and _ that begins with a letter and is not %s", key, ImageKey)
	}
	g.m.FS.Mounts = append(g.m.FS.Mounts, Mount{Type: "encrypted", Path: mnt.Destination, URI: "file:" + path.Join(volumesDir, v.Name, mnt.SubPath), KeyName: name})
}

// keyName says whether a key may have this name; those with _ in front are
// Gramine's own.
func keyName(s string) bool {
	if s == "_sgx_mrenclave" || s == "_sgx_mrsigner" {
		return true
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r != '-' && r != '_' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// mounters counts the containers that mount a volume.
func (in *Input) mounters(volume string) int {
	n := 0
	for _, list := range [][]podpolicy.Container{in.Policy.InitContainers, in.Policy.Containers} {
		for _, c := range list {
			if slices.ContainsFunc(c.Mounts, func(m podpolicy.Mount) bool { return m.Volume == volume }) {
				n++
			}
		}
	}
	return n
}

// size sets memory and threads, which an enclave has from its first moment on.
func (g *generator) size() {
	in, r := g.in, &g.in.Container.Resources
	n := in.EnclaveBytes
	switch {
	case n != 0 && (n < minEnclaveBytes || n > maxEnclaveBytes || n&(n-1) != 0):
		g.no("enclave size", "%d bytes: a power of two from 256 MiB to 512 GiB", n)
	case n == 0 && r.MemoryBytes == 0:
		g.no("resources.limits.memory", "is not set, and an enclave's size is fixed when it is measured: set it, or say --enclave-size")
	case n == 0 && r.MemoryBytes > maxEnclaveBytes-libraryOSBytes:
		g.no("resources.limits.memory", "more than an enclave can have")
	case n == 0:
		n = max(minEnclaveBytes, int64(1)<<bits.Len64(uint64(r.MemoryBytes+libraryOSBytes-1)))
	}
	g.m.SGX.EnclaveSize = strconv.FormatInt(n>>20, 10) + "M"
	threads := in.Threads
	if threads == 0 {
		cpus := defaultCPUs
		if r.CPUQuota > 0 && r.CPUPeriod > 0 {
			cpus = int(math.Ceil(float64(r.CPUQuota) / float64(r.CPUPeriod)))
		}
		threads = min(maxThreads, threadsPerCPU*cpus+helperThreads)
	}
	if threads < helperThreads || threads > maxThreads {
		g.no("threads", "%d: from %d to %d", threads, helperThreads, maxThreads)
	}
	g.m.SGX.MaxThreads = threads
}

// Encode gives the document's bytes.
func (m *Manifest) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Made by coffer sgx manifest. Not a template: give it to gramine-sgx-sign as it is.\n\n")
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
