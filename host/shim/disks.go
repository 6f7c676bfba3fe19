package shim

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// podUIDRE are the kubelet's names of pods: UUIDs, and hashes of static pods.
var podUIDRE = regexp.MustCompile(`^[0-9a-f-]{1,64}$`)

// volumeFile is the disk in the file system of a PersistentVolume.
const volumeFile = "coffer-volume.disk"

// filesAlone are the kubelet's plugins whose volumes are no storage.
var filesAlone = []string{
	"kubernetes.io~configmap", "kubernetes.io~downward-api", "kubernetes.io~empty-dir", "kubernetes.io~projected", "kubernetes.io~secret",
}

// block is the kubelet's folder of volumes that are devices.
const block = "volumeDevices"

// addDisks gives the machine its disks: one for each of the policy's volumes that end
// with the pod, and one for each PersistentVolume that the kubelet has mounted or
// mapped for it.
// Which of those is which volume's the guest finds out: the kubelet's folders do not say.
func (h *holder) addDisks(c *Config, policy *podpolicy.Policy, uid string) error {
	var kept []*podpolicy.Volume
	for _, v := range policy.Disks() {
		if !v.Kept() {
			h.spec.Disks = append(h.spec.Disks, launch.Disk{Serial: podpolicy.DiskSerial(v.Name), Bytes: v.SizeLimit})
			continue
		}
		kept = append(kept, v)
	}
	for _, v := range kept {
		if v.Block && c.TEE.Process() {
			return fmt.Errorf("volume %s is a block volume, and a pod of %s is a process, which has no devices", v.Name, c.TEE)
		}
	}
	var made int64
	for _, v := range policy.Disks() {
		made += v.SizeLimit
	}
	if c.MaxDiskGiB > 0 && made > int64(c.MaxDiskGiB)<<30 {
		return fmt.Errorf("the pod's volumes on disks take %d bytes, and this runtime handler gives a pod %d GiB (max_disk_gib)", made, c.MaxDiskGiB)
	}
	if len(kept) == 0 {
		return nil
	}
	if !podUIDRE.MatchString(uid) {
		return fmt.Errorf("the pod has volumes on disks, and its uid, which leads to them, is %.64q", uid)
	}
	folders, err := persistent(filepath.Join(c.KubeletDir, "pods", uid))
	if err != nil {
		return fmt.Errorf("looking for the pod's PersistentVolumes: %w", err)
	}
	if len(folders) < len(kept) {
		return fmt.Errorf("the pod has %d PersistentVolumes, and its policy %d volumes on such disks", len(folders), len(kept))
	}
	for i, folder := range folders {
		f, path, err := openVolume(c, folder, kept)
		if err != nil {
			return fmt.Errorf("PersistentVolume %s: %w", filepath.Base(strings.TrimSuffix(folder, "/mount")), err)
		}
		serial := podpolicy.ClaimSerial(i)
		h.files = append(h.files, f)
		h.spec.Disks = append(h.spec.Disks, launch.Disk{Serial: serial, Path: path})
	}
	return nil
}

// close closes what addDisks opened, which the machine has its own descriptors of.
func (h *holder) close() {
	for _, f := range h.files {
		_ = f.Close()
	}
}

// persistent gives the folders of a pod's PersistentVolumes, and the links to those that
// are devices, in a fixed order.
func persistent(pod string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(pod, "volumes", "*", "*"))
	if err != nil {
		return nil, err
	}
	out, err := filepath.Glob(filepath.Join(pod, block, "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range found {
		plugin := filepath.Base(filepath.Dir(dir))
		if slices.Contains(filesAlone, plugin) {
			continue
		}
		if plugin == "kubernetes.io~csi" {
			dir = filepath.Join(dir, "mount")
		}
		out = append(out, dir)
	}
	slices.Sort(out)
	return out, nil
}

// openVolume opens the disk of a PersistentVolume: the device that the kubelet or the
// record of a direct-assigned one names, else a file in it, which is made where a volume may be new, and grows to
// what the policy demands. Others may
// have written to that file system: what is opened is a regular file in it, or nothing.
// The path is for the launch, which opens the same file by it.
func openVolume(c *Config, folder string, kept []*podpolicy.Volume) (*os.File, string, error) {
	if filepath.Base(filepath.Dir(filepath.Dir(folder))) == block {
		return openDevice(folder)
	}
	device, err := directDevice(c.DirectVolumes, folder)
	if err != nil {
		return nil, "", err
	}
	if device != "" {
		f, err := os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK, 0)
		return f, device, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	f, err := root.OpenFile(volumeFile, os.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = makeVolume(root, kept)
	}
	if err != nil {
		return nil, "", err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", volumeFile)
	}
	if size := largest(kept); err == nil && fi.Size() < size && !c.TEE.Process() { // which keeps its files as they are
		err = f.Truncate(size)
	}
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), nil
}

// largest gives the largest size that the policy demands of a volume.
func largest(kept []*podpolicy.Volume) int64 {
	var size int64
	for _, v := range kept {
		if !v.Block {
			size = max(size, v.SizeLimit)
		}
	}
	return size
}

// openDevice opens a device by the kubelet's link to it.
func openDevice(link string) (*os.File, string, error) {
	f, err := os.OpenFile(link, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	fi, err := f.Stat()
	if err == nil && fi.Mode()&os.ModeType != os.ModeDevice {
		err = fmt.Errorf("%s leads to no block device", link)
	}
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), nil
}

// makeVolume makes the file of a new volume, as large as the largest that may be it.
func makeVolume(root *os.Root, kept []*podpolicy.Volume) (*os.File, error) {
	var size int64
	fresh := false
	for _, v := range kept {
		if v.New && !v.Block {
			fresh, size = true, max(size, v.SizeLimit)
		}
	}
	switch {
	case !fresh:
		return nil, fmt.Errorf("%s is not there, and the pod's policy lets no new volume be made (coffer seal --volume-new)", volumeFile)
	case size == 0:
		return nil, fmt.Errorf("%s is not there, and the pod's policy does not say how large to make it (coffer seal --volume-size)", volumeFile)
	}
	f, err := root.OpenFile(volumeFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close(), root.Remove(volumeFile))
	}
	return f, nil
}

// maxMountInfo is the largest record of a direct-assigned volume, in bytes.
const maxMountInfo = 64 << 10

// directDevice reads the published record of a direct-assigned volume; "": there is none.
func directDevice(direct, folder string) (string, error) {
	path := filepath.Join(direct, base64.URLEncoding.EncodeToString([]byte(folder)), "mountInfo.json")
	b, err := readBounded(path, maxMountInfo)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) { // nobody can have made that one
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var info struct {
		VolumeType string `json:"volume-type"`
		Device     string `json:"device"`
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if info.VolumeType != "block" || !filepath.IsAbs(info.Device) {
		return "", fmt.Errorf("%s: volume-type %.40q with device %.200q: only block devices by an absolute path can be given to a guest", path, info.VolumeType, info.Device)
	}
	return info.Device, nil
}
