package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/spec"
)

// volumeFlags say which of a pod's volumes are on disks.
type volumeFlags struct {
	keys, sizes    []string
	sealing        []string
	fresh, scratch []string
	images         string
}

func (v *volumeFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&v.keys, "volume-key", nil, "seal so that a persistentVolumeClaim's volume is opened with this key of the trustee: VOLUME=kbs:///REPOSITORY/TYPE/TAG (repeatable)")
	fl.StringArrayVar(&v.sealing, "volume-sealing", nil, "seal so that the TEE's own sealing key is part of a volume's key (sgx): VOLUME=mrenclave, for this pod as it is sealed now, or with --volume-key VOLUME=mrsigner (repeatable)")
	fl.StringArrayVar(&v.fresh, "volume-new", nil, "seal so that an empty disk may become this volume; without it the guest opens what is there, or refuses to start (repeatable)")
	fl.StringArrayVar(&v.sizes, "volume-size", nil, "seal so that this volume's disk has at least this size: VOLUME=10Gi (repeatable)")
	fl.StringVar(&v.images, "images-on-disk", "", "seal so that images are unpacked on a disk of this size, encrypted with a key that ends with the pod, and not in memory: 4Gi")
	fl.StringArrayVar(&v.scratch, "volume-on-disk", nil, "seal so that this emptyDir is on a disk, encrypted with a key that ends with the pod, and not in memory (repeatable)")
}

// disks gives what the flags say, by volume.
func (v *volumeFlags) disks() (map[string]spec.Disk, error) {
	out := map[string]spec.Disk{}
	for _, s := range v.keys {
		name, key, ok := strings.Cut(s, "=")
		if !ok || name == "" || key == "" {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-key %q: write VOLUME=kbs:///REPOSITORY/TYPE/TAG", s))
		}
		out[name] = spec.Disk{Key: key}
	}
	for _, s := range v.sealing {
		name, policy, _ := strings.Cut(s, "=")
		if name == "" || policy != podpolicy.SealingMREnclave && policy != podpolicy.SealingMRSigner {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-sealing %q: write VOLUME=%s or VOLUME=%s", s, podpolicy.SealingMREnclave, podpolicy.SealingMRSigner))
		}
		d := out[name]
		d.Sealing = policy
		out[name] = d
	}
	for _, name := range v.fresh {
		d, ok := out[name]
		if !ok {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-new %s: only a volume with --volume-key or --volume-sealing is ever anything but new", name))
		}
		d.New = true
		out[name] = d
	}
	for _, s := range v.sizes {
		name, size, ok := strings.Cut(s, "=")
		q, err := resource.ParseQuantity(size)
		d, known := out[name]
		switch {
		case !ok || err != nil || q.Sign() <= 0:
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-size %q: write VOLUME=SIZE, like data=10Gi", s))
		case !known:
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-size %s: only for a volume with --volume-key or --volume-sealing; that of an emptyDir is its sizeLimit", name))
		}
		d.Bytes = q.Value()
		out[name] = d
	}
	for _, name := range v.scratch {
		if _, ok := out[name]; ok {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume-on-disk %s: it has a key, so it is on a disk that lasts", name))
		}
		out[name] = spec.Disk{}
	}
	return out, nil
}

// imagesOnDisk gives the size of the disk for images; 0: none.
func (v *volumeFlags) imagesOnDisk() (int64, error) {
	if v.images == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(v.images)
	if err != nil || q.Sign() <= 0 {
		return 0, Exit(ExitUsage, fmt.Errorf("--images-on-disk %q: write a size, like 4Gi", v.images))
	}
	return q.Value(), nil
}

// parseVolumes reads the VOLUME=FILE of coffer run; a file's name becomes absolute.
func parseVolumes(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		name, file, ok := strings.Cut(s, "=")
		if !ok || name == "" || file == "" {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume %q: write VOLUME=FILE", s))
		}
		if out[name] != "" {
			return nil, Exit(ExitUsage, fmt.Errorf("--volume %s: given twice", name))
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, Exit(ExitInput, fmt.Errorf("--volume %s: %w", name, err))
		}
		out[name] = abs
	}
	return out, nil
}
