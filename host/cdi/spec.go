package cdi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// Bounds of what is read.
const (
	maxSpec    = 1 << 20 // bytes of a specification
	maxFiles   = 512     // files of a folder
	maxDevices = 4096    // devices of a specification
	maxNodes   = 64      // device nodes of a device
)

// spec is a specification, without hooks and the like.
type spec struct {
	Version string `yaml:"cdiVersion"`
	Kind    string `yaml:"kind"`
	Devices []struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
		Edits       edits             `yaml:"containerEdits"`
	} `yaml:"devices"`
	Edits edits `yaml:"containerEdits"`
}

type edits struct {
	Nodes []struct {
		Path     string `yaml:"path"`
		HostPath string `yaml:"hostPath"`
	} `yaml:"deviceNodes"`
	// What a runtime on the node adds to a container, and no guest is to see.
	Env    []string `yaml:"env"`
	Mounts []Mount  `yaml:"mounts"`
}

// Mount is one that a specification adds to containers on the node.
type Mount struct {
	Source      string `yaml:"hostPath"`
	Destination string `yaml:"containerPath"`
}

// inside gives the nodes' paths in a container.
func (e *edits) inside() []string {
	var out []string
	for _, n := range e.Nodes {
		out = append(out, n.Path)
	}
	return out
}

// paths gives them on the host.
func (e *edits) paths() []string {
	var out []string
	for _, n := range e.Nodes {
		if n.HostPath != "" {
			out = append(out, n.HostPath)
			continue
		}
		out = append(out, n.Path)
	}
	return out
}

// device is what a specification says of one device.
type device struct {
	nodes     []string // on the host
	inside    []string // the same in the container
	simulated string   // kind, by wire name; "": none
	env       []string
	mounts    []Mount
	file      string
}

var version = regexp.MustCompile(`^[01]\.[0-9]{1,3}\.[0-9]{1,3}$`)

// parse reads a specification, YAML or JSON.
func parse(b []byte) (*spec, error) {
	if len(b) > maxSpec {
		return nil, fmt.Errorf("longer than %d bytes", maxSpec)
	}
	s := new(spec)
	if err := yaml.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if !version.MatchString(s.Version) {
		return nil, fmt.Errorf("cdiVersion: %.40q is none that is known (0.x, 1.x)", s.Version)
	}
	if _, err := parseKind(s.Kind); err != nil {
		return nil, fmt.Errorf("kind: %w", err)
	}
	if len(s.Devices) > maxDevices || len(s.Edits.Nodes) > maxNodes {
		return nil, fmt.Errorf("devices: more than %d, or more than %d nodes", maxDevices, maxNodes)
	}
	seen := map[string]bool{}
	for i := range s.Devices {
		d := &s.Devices[i]
		if !validPart(d.Name, true) {
			return nil, fmt.Errorf("devices[%d].name: %.200q is none", i, d.Name)
		}
		if seen[d.Name] {
			return nil, fmt.Errorf("devices[%d].name: %s comes twice", i, d.Name)
		}
		seen[d.Name] = true
		if len(d.Edits.Nodes) > maxNodes {
			return nil, fmt.Errorf("devices[%d].containerEdits.deviceNodes: more than %d", i, maxNodes)
		}
	}
	return s, nil
}

// readDirs gives what the folders say of each device, and of each file that is no
// specification why. A folder that is not there is empty.
func readDirs(dirs []string) (known map[Name]device, bad []error, err error) {
	known = map[Name]device{}
	for _, dir := range dirs {
		here, b, err := readDir(dir)
		if err != nil {
			return nil, nil, err
		}
		bad = append(bad, b...)
		for n, d := range here {
			known[n] = d
		}
	}
	return known, bad, nil
}

// ambiguous marks a device that two files of one folder have.
const ambiguous = "\x00"

func readDir(dir string) (known map[Name]device, bad []error, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, &Error{BadSpecDir, "", err.Error()}
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err == nil && len(entries) > maxFiles {
		err = fmt.Errorf("%s has more than %d files", dir, maxFiles)
	}
	if err != nil {
		return nil, nil, &Error{BadSpecDir, "", err.Error()}
	}
	known = map[Name]device{}
	for _, e := range entries {
		if !slices.Contains([]string{".json", ".yaml"}, filepath.Ext(e.Name())) || !e.Type().IsRegular() && e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		file := filepath.Join(dir, e.Name())
		s, err := readFile(root, e.Name())
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", file, err))
			continue
		}
		kind, _ := parseKind(s.Kind)
		for i := range s.Devices {
			d := &s.Devices[i]
			n := Name{kind.Vendor, kind.Class, d.Name}
			found := device{
				nodes: append(d.Edits.paths(), s.Edits.paths()...), inside: append(d.Edits.inside(), s.Edits.inside()...), simulated: d.Annotations[AnnotationSimulated],
				env: slices.Concat(d.Edits.Env, s.Edits.Env), mounts: slices.Concat(d.Edits.Mounts, s.Edits.Mounts), file: file,
			}
			if _, twice := known[n]; twice {
				found = device{file: ambiguous}
			}
			known[n] = found
		}
	}
	return known, bad, nil
}

func readFile(root *os.Root, name string) (*spec, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(errors.New("not a file"), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, err
	}
	return parse(b)
}
