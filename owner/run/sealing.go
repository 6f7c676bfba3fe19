package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/seal"
)

// SealResult is what coffer seal did.
type SealResult struct {
	Pod      string            `json:"pod"`
	Seal     string            `json:"seal,omitempty"`  // id; "" if unregistered
	Initdata string            `json:"initdata"`        // "sha256:<hex>"
	Policy   string            `json:"policy"`          // "sha256:<hex>"
	Images   map[string]string `json:"images"`          // as in the pod -> by digest
	Notes    []string          `json:"notes,omitempty"` // accepted without effect, or with a limit
	Manifest []byte            `json:"-"`               // the sealed manifest
}

// Seal seals a pod: it resolves the images to digests, makes policy and
// initdata, signs the seal and registers it, with the platform's reference
// values, with the trustee.
func Seal(ctx context.Context, o PodOptions, progress func(string)) (*SealResult, error) {
	p, err := loadPod(o.File)
	if err != nil {
		return nil, err
	}
	if len(p.Unsealable) > 0 {
		return nil, &InputError{fmt.Errorf("%s: %w", o.File, &pod.Error{Problems: p.Unsealable})}
	}
	pf, err := platformFor(&o)
	if err != nil {
		return nil, err
	}
	src, err := loadSources(o.Images)
	if err != nil {
		return nil, &InputError{err}
	}
	if len(o.Images.Local) > 0 {
		return nil, &InputError{errors.New("--image: a sealed pod's images must be in a registry that the guest can reach later")}
	}
	// A pod that is sealed already is sealed anew, from its own text.
	for _, key := range []string{initdata.AnnotationKey, launch.AnnotationMemory, launch.AnnotationVCPUs} {
		delete(p.Annotations, key)
	}
	if !o.TEE.Simulated() && o.Trustee.URL == "" {
		return nil, &InputError{fmt.Errorf("--trustee: a pod for %s needs one that it can reach where it will run: the local one keeps simulations apart", o.TEE)}
	}
	t, err := OpenTrustee(ctx, o.Trustee, progress)
	if err != nil {
		return nil, &TrusteeError{err}
	}
	defer t.Release()
	prep, err := prepare(ctx, p, &o, src, t)
	if err != nil {
		return nil, err
	}
	if !o.Unregistered {
		if err := prep.register(ctx, &o, pf, t.Client.Namespace(o.namespace()), t, progress); err != nil {
			return nil, err
		}
	}
	out := &SealResult{
		Pod: p.FullName(), Seal: prep.sealID, Initdata: prep.digest, Policy: prep.sealed.PolicyDigest,
		Images: map[string]string{}, Notes: append(prep.plan.Notes, p.SealNotes...),
	}
	for name, img := range prep.images {
		out.Images[name] = img.Reference
	}
	if out.Manifest, err = seal.Annotate(p, prep.document, seal.Size{MemoryMiB: prep.plan.MemoryMiB, VCPUs: prep.plan.VCPUs}); err != nil {
		return nil, &InputError{err}
	}
	return out, nil
}

// WriteFile replaces path with b completely or not at all.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
