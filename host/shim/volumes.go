package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/agentpb"
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
		if v.Kind != podpolicy.VolumeFiles || p.copied[v.Name] {
			continue
		}
		dir := dirs[v.Name]
		if dir == "" {
			continue // the guest says which volume is missing
		}
		if err := p.copyVolume(ctx, v, dir); err != nil {
			return fmt.Errorf("copying volume %s: %w", v.Name, err)
		}
		p.copied[v.Name] = true
	}
	return nil
}

func (p *pod) copyVolume(ctx context.Context, v *podpolicy.Volume, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	send := func(r *agentpb.CopyFileRequest) error { return call(ctx, callTimeout, p.agent.CopyFile, r) }
	for _, d := range append([]string{""}, v.Dirs()...) {
		if err := send(podpolicy.CopyDirRequest(v, d)); err != nil {
			return err
		}
	}
	for _, name := range v.FileNames() {
		content, err := readFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the guest says which file is missing
		}
		if err != nil {
			return err
		}
		for _, r := range podpolicy.CopyFileRequests(v, name, content) {
			if err := send(r); err != nil {
				return err
			}
		}
	}
	return nil
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
