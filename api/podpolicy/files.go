package podpolicy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// judgeCopyFile lets the host deliver exactly the files that the policy
// declares, each once, from its first byte to its last. It hashes what passes
// and denies the chunk that would complete another content.
func (e *Enforcer) judgeCopyFile(r *agentpb.CopyFileRequest) (*Grant, *denial.Denial) {
	v, name, d := e.locate(r.Path)
	if d != nil {
		return nil, d
	}
	claim := fmt.Sprintf("volumes[%s].files[%s]", v.Name, clip(name))
	switch r.FileMode & modeType {
	case modeSymlink:
		return nil, deny(LinkDenied, claim, "a symbolic link", "a file or a directory that the policy declares")
	case modeDir:
		return e.judgeCopyDir(r, v, name, claim)
	}
	if v.Kind == VolumeServiceAccount {
		return e.judgeAccountFile(r, v, name, claim)
	}
	f, ok := v.Files[name]
	if !ok {
		return nil, deny(FileUndeclared, claim, "a file", "only files that the policy declares")
	}
	want := &agentpb.CopyFileRequest{Path: r.Path, FileSize: f.Size, FileMode: modeRegular | f.Mode, DirMode: DirMode, Offset: r.Offset, Data: r.Data}
	if d := diff(claim, r.ProtoReflect(), want.ProtoReflect()); d != nil {
		d.Reason = FileMismatch
		return nil, d
	}
	key := v.Name + "/" + name
	st := e.files[key]
	if st == nil {
		st = &fileState{sum: sha256.New().(hash.Cloner)}
	}
	end := r.Offset + int64(len(r.Data))
	switch {
	case st.done:
		return nil, deny(Replayed, claim, "delivered again", "once")
	case st.busy || r.Offset != st.offset || len(r.Data) == 0 && f.Size != 0:
		return nil, deny(OutOfOrder, claim+".offset", fmt.Sprintf("%d bytes at offset %d", len(r.Data), r.Offset), fmt.Sprintf("the bytes from offset %d", st.offset))
	case end > f.Size || end < r.Offset:
		return nil, deny(FileMismatch, claim+".size", fmt.Sprint(end), fmt.Sprint(f.Size))
	}
	next, err := st.sum.Clone()
	if err != nil {
		return nil, deny(FileMismatch, claim, "a hash that cannot be continued", f.SHA256)
	}
	next.Write(r.Data)
	last := end == f.Size
	if last {
		if sum := hex.EncodeToString(next.Sum(nil)); sum != f.SHA256 {
			delete(e.files, key) // the next try starts at the first byte
			return nil, deny(FileMismatch, claim+".sha256", sum, f.SHA256)
		}
	}
	e.files[key] = st
	st.busy = true
	return &Grant{
		File:   &FileGrant{Volume: v, Path: name, File: f, Offset: r.Offset, Last: last},
		commit: e.locked(func() { st.sum, st.offset, st.done, st.busy = next, end, last, false }),
		// The agent may have written part of the chunk: it comes again at the same offset.
		rollback: e.locked(func() { st.busy = false }),
	}, nil
}

func (e *Enforcer) judgeCopyDir(r *agentpb.CopyFileRequest, v *Volume, name, claim string) (*Grant, *denial.Denial) {
	if name != "" && !v.dirs()[name] {
		return nil, deny(FileUndeclared, claim, "a directory", "only directories of files that the policy declares")
	}
	if d := diff(claim, r.ProtoReflect(), CopyDirRequest(v, name).ProtoReflect()); d != nil {
		d.Reason = FileMismatch
		return nil, d
	}
	key := v.Name + "/" + name + "/" // no file has this key
	if e.files[key] != nil {
		return nil, deny(Replayed, claim, "made again", "once")
	}
	e.files[key] = &fileState{done: true}
	return &Grant{
		File:     &FileGrant{Volume: v, Path: name, Dir: true},
		rollback: e.locked(func() { delete(e.files, key) }),
	}, nil
}

// locate splits a CopyFile path into the volume and the path below its root.
func (e *Enforcer) locate(path string) (*Volume, string, *denial.Denial) {
	rest, ok := strings.CutPrefix(path, SharedDir+"/")
	if !ok || !absClean(path) {
		return nil, "", deny(PathDenied, "path", path, "a clean path below "+SharedDir)
	}
	volume, name, _ := strings.Cut(rest, "/")
	v := e.policy.Volume(volume)
	if v == nil || v.Kind != VolumeFiles && v.Kind != VolumeServiceAccount {
		return nil, "", deny(FileUndeclared, fmt.Sprintf("volumes[%s]", clip(volume)), path, "a volume of files that the policy declares")
	}
	return v, name, nil
}

// complete denies while a file of v is missing.
func (e *Enforcer) complete(v *Volume) *denial.Denial {
	if v.Kind != VolumeFiles {
		return nil
	}
	for _, name := range sortedKeys(v.Files) {
		if st := e.files[v.Name+"/"+name]; st == nil || !st.done {
			return deny(VolumeIncomplete, fmt.Sprintf("volumes[%s].files[%s]", v.Name, clip(name)), "not delivered", "delivered before a container mounts the volume")
		}
	}
	return nil
}
