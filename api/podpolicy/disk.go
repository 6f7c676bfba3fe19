package podpolicy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/resource"
)

// DiskSerial is the serial number of the disk that the host gives for a volume: the
// 20 characters that virtio has room for.
func DiskSerial(volume string) string {
	sum := sha256.Sum256([]byte(volume))
	return DiskSerials + hex.EncodeToString(sum[:8])
}

// ClaimSerial is the serial number of a disk of which the host does not know whose it
// is: the guest tries it for every volume with a key.
func ClaimSerial(n int) string { return fmt.Sprintf("%s%d", ClaimSerials, n) }

// ClaimSerials begins them.
const ClaimSerials = DiskSerials + "claim-"

// Values of Volume.Sealing: the policies of SGX's key for sealing.
const (
	SealingMREnclave = "mrenclave"
	SealingMRSigner  = "mrsigner"
)

// Kept reports whether a disk's volume outlives its guest.
func (v *Volume) Kept() bool { return v.Key != "" || v.Sealing != "" }

// ImagesVolume is the name of the volume on which the guest unpacks images, if the
// policy has a disk of that name. No container mounts it.
const ImagesVolume = "coffer-images"

// MinDisk is the least size of a volume's disk, in bytes: what the guest keeps beside
// the data takes some of it.
const MinDisk = 32 << 20

// DiskSerials begins the serial numbers of all volumes' disks.
const DiskSerials = "vol-"

// Disks gives the volumes that are on disks.
func (p *Policy) Disks() []*Volume {
	var out []*Volume
	for i := range p.Volumes {
		if p.Volumes[i].Kind == VolumeDisk {
			out = append(out, &p.Volumes[i])
		}
	}
	return out
}

func (v *Volume) validateDisk() error {
	switch {
	case len(v.Files) != 0 || v.Memory:
		return fmt.Errorf("files, memory: not for a disk")
	case v.SizeLimit < 0 || v.SizeLimit > maxBytes:
		return fmt.Errorf("size_limit: %d is out of range", v.SizeLimit)
	case v.Sealing != "" && v.Sealing != SealingMREnclave && v.Sealing != SealingMRSigner:
		return fmt.Errorf("sealing: %s is neither %s nor %s", clip(v.Sealing), SealingMREnclave, SealingMRSigner)
	case v.Sealing == SealingMRSigner && v.Key == "":
		return fmt.Errorf("sealing: %s alone would be every pod's of this signer: it needs a key too", SealingMRSigner)
	case !v.Kept() && v.SizeLimit < MinDisk:
		return fmt.Errorf("size_limit: a disk without a key has one, of %d bytes at least", MinDisk)
	case !v.Kept() && v.New:
		return fmt.Errorf("new: a disk without a key is always new")
	case !v.Kept() && v.Block:
		return fmt.Errorf("block: only a disk that outlives the guest is given to containers as a device")
	case v.Block && v.GID != nil:
		return fmt.Errorf("gid: a device is its container's user's")
	case v.Name == ImagesVolume && v.Kept():
		return fmt.Errorf("key, sealing: images are pulled anew by every guest")
	case v.Key == "":
		return nil
	}
	if _, err := resource.Parse(v.Key); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return nil
}
