package snapshot

import (
	"encoding/base64"
	"encoding/json"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// kataVolumeOption begins the mount option by which published runtimes learn that a
// container's image is for the guest to pull (shared/spec/kata.md section 1.7).
const kataVolumeOption = "io.katacontainers.volume="

// maxMountData is a page: containerd mounts roots itself at times, and a mount's
// options end there.
const maxMountData = 4096

// kataLabels are what CRI said of the image with its layers and what a runtime may ask
// for. The list of all layers stays out: it alone can fill a mount's options.
var kataLabels = []string{imageRefLabel, "containerd.io/snapshot/cri.manifest-digest", "containerd.io/snapshot/cri.layer-digest"}

// imageRefLabel names the image that a layer was pulled for.
const imageRefLabel = "containerd.io/snapshot/cri.image-ref"

// kataVolume is the document of the option: volume_type decides which member stands.
type kataVolume struct {
	Type      string    `json:"volume_type"`
	Source    string    `json:"source"`
	FSType    string    `json:"fs_type"`
	ImagePull kataImage `json:"image_pull"`
}

type kataImage struct {
	Metadata map[string]string `json:"metadata"`
}

// kataOption writes what the labels of a container's top layer say. Two images with the same
// layers share a layer's labels, so that its image may be the other one's name; runtimes
// therefore read the name in CRI's annotations of the container. They want some source:
// of a layer that only containerd knows it is the chain ID.
func kataOption(layer string, labels map[string]string) (string, error) {
	v := kataVolume{Type: "image_guest_pull", Source: layer, FSType: "overlay", ImagePull: kataImage{map[string]string{}}}
	for _, k := range kataLabels {
		if s := labels[k]; s != "" {
			v.ImagePull.Metadata[k] = s
		}
	}
	if ref := labels[imageRefLabel]; ref != "" {
		v.Source = ref
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	o := kataVolumeOption + base64.StdEncoding.EncodeToString(b)
	if len(o) >= maxMountData {
		return "", status.Errorf(codes.InvalidArgument, "the image's name and digests need %d bytes of a mount's options, which has fewer than %d", len(o), maxMountData)
	}
	return o, nil
}

// kataOption gives the option for a container on a layer.
func (s *service) kataOption(layer string) (string, error) {
	rec, err := s.store.find(layer)
	if err != nil {
		return "", err
	}
	return kataOption(layer, rec.Labels)
}
