package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/image/digest"
)

// Config is the image configuration: how to run it and the digests of its
// unpacked layers.
type Config struct {
	OS           string          `json:"os"`
	Architecture string          `json:"architecture"`
	Variant      string          `json:"variant,omitempty"`
	Config       ContainerConfig `json:"config"`
	RootFS       RootFS          `json:"rootfs"`
}

// ContainerConfig is what the image says about its process.
type ContainerConfig struct {
	User         string              `json:"User,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
}

// RootFS lists the digests of the layers' uncompressed, decrypted tar streams,
// lowest first.
type RootFS struct {
	Type    string          `json:"type"`
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// ParseConfig reads an image configuration and checks it against its manifest:
// one diffID for each layer.
func ParseConfig(b []byte, m *Manifest) (*Config, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("image config of %d bytes: more than %d", len(b), MaxSize)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("parsing image config: %w", err)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("image config: rootfs type %.40q, expected \"layers\"", c.RootFS.Type)
	}
	for i, d := range c.RootFS.DiffIDs {
		if d == "" {
			return nil, fmt.Errorf("image config: diff_ids[%d] is empty", i)
		}
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("image config lists %d diff_ids, its manifest %d layers", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	return &c, nil
}

// Platform gives what the image runs on.
func (c *Config) Platform() Platform {
	return Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
}

// RunsOn says whether the image's own configuration names the machine want.
func (c *Config) RunsOn(want Platform) bool { return c.Platform().runsOn(want) >= 0 }

// ChainIDs gives the OCI chain id of each layer: the digest of it and all below.
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	out := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			out[i] = d
			continue
		}
		s := sha256.Sum256([]byte(string(out[i-1]) + " " + string(d)))
		out[i] = digest.Digest("sha256:" + hex.EncodeToString(s[:]))
	}
	return out
}
