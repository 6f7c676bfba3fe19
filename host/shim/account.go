package shim

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// accountPeriod is how often the kubelet's files are looked at: it renews a token
// when four fifths of its life, ten minutes at least, are over.
const accountPeriod = 30 * time.Second

// account follows the files that the cluster gives the pod for its API.
type account struct {
	volume *podpolicy.Volume
	dir    string
	sent   map[string][]byte
}

// copyAccount delivers what the cluster gives the pod for its API, and goes on to
// deliver what is renewed; p.mu is held.
func (p *pod) copyAccount(ctx context.Context, v *podpolicy.Volume, s *specs.Spec) error {
	if p.account != nil {
		return nil
	}
	for i := range s.Mounts {
		if filepath.Clean(s.Mounts[i].Destination) != podpolicy.ServiceAccountDir {
			continue
		}
		// Only what the API server has added: no other path of the node is read.
		if name, dir, ok := volumeOf(s.Mounts[i].Source); ok && dir != "" && strings.HasPrefix(name, accountPrefix) {
			a := &account{volume: v, dir: dir, sent: map[string][]byte{}}
			if err := p.copyDir(ctx, v, ""); err != nil {
				return err
			}
			if err := p.sendAccount(ctx, a); err != nil {
				return err
			}
			p.account = a
			go p.followAccount(context.WithoutCancel(ctx), a)
		}
		return nil
	}
	return nil
}

// sendAccount sends the files that are not what the guest has.
func (p *pod) sendAccount(ctx context.Context, a *account) error {
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range podpolicy.ServiceAccountFiles {
		content, err := readFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if have, ok := a.sent[name]; ok && bytes.Equal(have, content) {
			continue
		}
		if err := call(ctx, callTimeout, p.agent.CopyFile, podpolicy.AccountFileRequest(a.volume, name, content)); err != nil {
			return err
		}
		a.sent[name] = content
	}
	return nil
}

// followAccount renews the guest's files until the TEE ends.
func (p *pod) followAccount(ctx context.Context, a *account) {
	t := time.NewTicker(accountPeriod)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
		}
		if err := p.sendAccount(ctx, a); err != nil {
			p.log.Warn("renewing the service account's files", "error", err)
		}
	}
}
