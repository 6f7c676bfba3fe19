package shim

import (
	"context"
	"fmt"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// The guest takes each folder and each file of a volume once, and of a file each chunk
// once and in order; only a whole file that was not the policy's begins anew. So pod.copied
// has, beside volumes by their names, what the guest took of the others: folders and files
// by their paths in the guest, and chunks of unfinished files. A try that fails is gone on
// with by the next one, when the kubelet asks for a container again.

func filePath(v *podpolicy.Volume, name string) string { return v.Path() + "/" + name }

// chunkKey is no clean path, so no file's.
func chunkKey(r *agentpb.CopyFileRequest) string { return fmt.Sprintf("%s//%d", r.Path, r.Offset) }

// copyDir makes a folder of a volume; p.mu is held, as in the other functions.
func (p *pod) copyDir(ctx context.Context, v *podpolicy.Volume, dir string) error {
	r := podpolicy.CopyDirRequest(v, dir)
	if p.copied[r.Path] {
		return nil
	}
	err := p.copy(ctx, r)
	if err != nil && !denied(err, podpolicy.Replayed) { // else it is there: an answer was lost
		return err
	}
	p.copied[r.Path] = true
	return nil
}

// copyFile delivers a file.
func (p *pod) copyFile(ctx context.Context, v *podpolicy.Volume, name string, content []byte) error {
	resumed, err := p.copyChunks(ctx, v, name, content)
	if resumed && denied(err, podpolicy.FileMismatch) {
		// What an earlier try began with may have been wrong: now it begins anew.
		_, err = p.copyChunks(ctx, v, name, content)
	}
	return err
}

// copyChunks delivers the chunks of a file that the guest does not have, and reports
// whether it has some of an earlier try.
func (p *pod) copyChunks(ctx context.Context, v *podpolicy.Volume, name string, content []byte) (resumed bool, err error) {
	requests := podpolicy.CopyFileRequests(v, name, content)
	anew := func() {
		for _, r := range requests {
			delete(p.copied, chunkKey(r))
		}
	}
	whole := int64(len(content)) == v.Files[name].Size // else the guest looks at no byte of it
	for i, r := range requests {
		if whole && p.copied[chunkKey(r)] {
			resumed = true
			continue
		}
		err := p.copy(ctx, r)
		switch {
		case err == nil:
		case denied(err, podpolicy.Replayed): // it has the file: an answer was lost
			anew()
			p.copied[r.Path] = true
			return resumed, nil
		case denied(err, podpolicy.OutOfOrder) && i < len(requests)-1: // it has this chunk: an answer was lost
			resumed = true
		case denied(err, podpolicy.OutOfOrder), denied(err, podpolicy.FileMismatch) && whole:
			anew()
			return resumed, err
		default:
			return resumed, err
		}
		p.copied[chunkKey(r)] = true
	}
	anew()
	p.copied[filePath(v, name)] = true
	return resumed, nil
}

func (p *pod) copy(ctx context.Context, r *agentpb.CopyFileRequest) error {
	return call(ctx, callTimeout, p.agent.CopyFile, r)
}
