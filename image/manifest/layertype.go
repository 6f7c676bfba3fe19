package manifest

import (
	"fmt"
	"strings"
)

// Compression of a layer's tar stream.
type Compression string

// Compressions.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// LayerType is what a layer's media type says.
type LayerType struct {
	Compression Compression
	Encrypted   bool
}

const encryptedSuffix = "+encrypted"

// layerBases are the media types of unencrypted layers. Non-distributable and
// foreign layers are asked of the registry like any other; their URLs are never
// followed.
var layerBases = map[string]Compression{
	"application/vnd.oci.image.layer.v1.tar":                       None,
	"application/vnd.oci.image.layer.v1.tar+gzip":                  Gzip,
	"application/vnd.oci.image.layer.v1.tar+zstd":                  Zstd,
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      None,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": Gzip,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": Zstd,
	"application/vnd.docker.image.rootfs.diff.tar":                 None,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":            Gzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":            Zstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar":         None,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    Gzip,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.zstd":    Zstd,
}

// ParseLayerType reads a layer's media type.
func ParseLayerType(mt string) (LayerType, error) {
	base, encrypted := strings.CutSuffix(mt, encryptedSuffix)
	c, ok := layerBases[base]
	if !ok {
		return LayerType{}, fmt.Errorf("layer media type %.100q is not supported", mt)
	}
	return LayerType{Compression: c, Encrypted: encrypted}, nil
}
