package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// copyVolumes delivers the files of the volumes that a container mounts and the
// guest does not have yet. The guest checks each against the policy's hash.
func (p *pod) copyVolumes(ctx context.Context, c *podpolicy.Container, s *specs.Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirs := map[string]string{}
	for i := range s.Mounts {
		if name, dir, ok := volumeOf(s.Mounts[i].Source); ok && dir != "" {
			dirs[name] = dir
		}
	}
	for _, v := range p.policy.VolumesOf(c) {
		if v.Kind == podpolicy.VolumeServiceAccount {
			if err := p.copyAccount(ctx, v, s); err != nil {
				return fmt.Errorf("copying the service account's files: %w", err)
			}
			continue
		}
		if v.Kind != podpolicy.VolumeFiles || p.copied[v.Name] {
			continue
		}
		dir := dirs[v.Name]
		if dir == "" {
			continue // the guest says which volume is missing
		}
		all, err := p.copyVolume(ctx, v, dir)
		if err != nil {
			return fmt.Errorf("copying volume %s: %w", v.Name, err)
		}
		p.copied[v.Name] = all
	}
	return nil
}

// copyVolume delivers what of a volume the guest does not have yet, and reports whether
// it has all of it then.
func (p *pod) copyVolume(ctx context.Context, v *podpolicy.Volume, dir string) (bool, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	for _, d := range append([]string{""}, v.Dirs()...) {
		if err := p.copyDir(ctx, v, d); err != nil {
			return false, err
		}
	}
	all := true
	for _, name := range v.FileNames() {
		if p.copied[filePath(v, name)] {
			continue
		}
		content, err := readFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			all = false // the guest says which file is missing
			continue
		}
		if err != nil {
			return false, err
		}
		if err := p.copyFile(ctx, v, name, content); err != nil {
			return false, err
		}
	}
	return all, nil
}

// maxFile is the largest file of a ConfigMap or Secret, in bytes: Kubernetes
// allows 1 MiB for all of one object's.
const maxFile = 4 << 20

func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return b, err
}
