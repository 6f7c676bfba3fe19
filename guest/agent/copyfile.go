package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// partSuffix marks a file that is not complete; no declared file ends so, since
// the name is only ever made here.
const partSuffix = ".coffer-part"

// CopyFile writes one chunk of a file that the policy declares. The Enforcer has
// judged path, place and content; the file appears under its name only when the
// last chunk has matched the policy's hash.
func (s *Server) CopyFile(ctx context.Context, req *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	g := grantOf(ctx).File
	if g == nil {
		return nil, invalid("no file")
	}
	root, err := os.OpenRoot(podpolicy.SharedDir)
	if err != nil {
		return nil, fmt.Errorf("copying file: %w", err)
	}
	defer root.Close()
	dir, name := g.Volume.Name, path.Join(g.Volume.Name, g.Path)
	if !g.Dir {
		dir = path.Dir(name)
	}
	if err := root.MkdirAll(dir, podpolicy.DirMode); err != nil {
		return nil, fmt.Errorf("copying file: %w", err)
	}
	if g.Dir {
		if g.Path != "" {
			if err := root.MkdirAll(name, podpolicy.DirMode); err != nil {
				return nil, fmt.Errorf("copying file: %w", err)
			}
		}
		return &emptypb.Empty{}, nil
	}
	part := name + partSuffix
	if err := writeChunk(root, part, g, req.GetData()); err != nil {
		return nil, fmt.Errorf("copying file: %w", err)
	}
	if !g.Last {
		return &emptypb.Empty{}, nil
	}
	gid := 0
	if g.Volume.GID != nil {
		gid = int(*g.Volume.GID)
	}
	if err := errors.Join(root.Chown(part, 0, gid), root.Chmod(part, fs.FileMode(g.File.Mode)&fs.ModePerm)); err != nil {
		return nil, fmt.Errorf("copying file: %w", err)
	}
	if err := root.Rename(part, name); err != nil {
		return nil, fmt.Errorf("copying file: %w", err)
	}
	return &emptypb.Empty{}, nil
}

func writeChunk(root *os.Root, part string, g *podpolicy.FileGrant, data []byte) error {
	flags := os.O_WRONLY
	if g.Offset == 0 {
		if err := root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := root.OpenFile(part, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, g.Offset)
	return errors.Join(err, f.Close())
}
