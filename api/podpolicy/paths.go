package podpolicy

// Paths inside the guest that requests name. They are the published layout of
// the kata agent; the host repeats them, the policy decides them.
const (
	// RootDir is where the agent keeps the sandbox.
	RootDir = "/run/kata-containers"
	// SharedDir is the only place CopyFile writes to.
	SharedDir = RootDir + "/shared/containers"
	// LocalDir holds empty-dir volumes, EphemeralDir those with medium Memory.
	LocalDir     = RootDir + "/sandbox/local"
	EphemeralDir = RootDir + "/sandbox/ephemeral"
	// ShmDir is the pod's /dev/shm.
	ShmDir = RootDir + "/sandbox/shm"
)

// Path gives the volume's directory in the guest, as requests name it.
func (v *Volume) Path() string {
	switch {
	case v.Kind == VolumeFiles || v.Kind == VolumeServiceAccount:
		return SharedDir + "/" + v.Name
	case v.Memory:
		return EphemeralDir + "/" + v.Name
	default:
		return LocalDir + "/" + v.Name
	}
}

// RootFS gives the path of a container's root, as requests name it.
func RootFS(containerID string) string { return RootDir + "/" + containerID + "/rootfs" }
