package initdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic opens the device image.
const Magic = "initdata"

// AnnotationKey is the pod annotation that carries EncodeAnnotation's text.
const AnnotationKey = "io.katacontainers.config.hypervisor.cc_init_data"

const (
	headerSize = len(Magic) + 8
	sectorSize = 512
)

// ErrNoMagic says that a device is not an initdata device.
var ErrNoMagic = errors.New("no initdata magic")

// EncodeDevice gives the raw disk image that carries a plain document: magic,
// little-endian length of the gzip stream, the stream, zeros up to a sector.
func EncodeDevice(plain []byte) ([]byte, error) {
	z, err := compress(plain)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, headerSize+len(z)+sectorSize)
	out = append(out, Magic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(z)))
	out = append(out, z...)
	if n := len(out) % sectorSize; n != 0 {
		out = append(out, make([]byte, sectorSize-n)...)
	}
	return out, nil
}

// DecodeDevice reads a device image once, bounded, and gives the plain bytes.
// It does not parse them. ErrNoMagic: another kind of device.
func DecodeDevice(r io.Reader) ([]byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrNoMagic
		}
		return nil, fmt.Errorf("reading initdata device: %w", err)
	}
	if string(h[:len(Magic)]) != Magic {
		return nil, ErrNoMagic
	}
	n := binary.LittleEndian.Uint64(h[len(Magic):])
	if n == 0 || n > MaxCompressed {
		return nil, fmt.Errorf("initdata device: %d bytes of gzip, at most %d", n, MaxCompressed)
	}
	z := make([]byte, n)
	if _, err := io.ReadFull(r, z); err != nil {
		return nil, fmt.Errorf("reading initdata device: %w", err)
	}
	return decompress(z)
}

// EncodeAnnotation gives the published text of a pod annotation.
func EncodeAnnotation(plain []byte) (string, error) {
	z, err := compress(plain)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(z), nil
}

// DecodeAnnotation is the inverse of EncodeAnnotation.
func DecodeAnnotation(s string) ([]byte, error) {
	if len(s) > base64.StdEncoding.EncodedLen(MaxCompressed) {
		return nil, errors.New("initdata annotation: too long")
	}
	z, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("initdata annotation: %w", err)
	}
	return decompress(z)
}

// compress makes equal bytes of equal documents: no name, no time.
func compress(plain []byte) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, fmt.Errorf("initdata: %d bytes, at most %d", len(plain), MaxPlain)
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if b.Len() > MaxCompressed {
		return nil, fmt.Errorf("initdata: %d bytes compressed, at most %d", b.Len(), MaxCompressed)
	}
	return b.Bytes(), nil
}

// decompress takes exactly one gzip member and nothing after it.
func decompress(z []byte) ([]byte, error) {
	if len(z) > MaxCompressed {
		return nil, fmt.Errorf("initdata: %d bytes compressed, at most %d", len(z), MaxCompressed)
	}
	src := bytes.NewReader(z)
	r, err := gzip.NewReader(src)
	if err != nil {
		return nil, fmt.Errorf("decompressing initdata: %w", err)
	}
	r.Multistream(false)
	plain, err := io.ReadAll(io.LimitReader(r, MaxPlain+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing initdata: %w", err)
	}
	if len(plain) > MaxPlain {
		return nil, fmt.Errorf("initdata: more than %d bytes", MaxPlain)
	}
	if src.Len() > 0 {
		return nil, errors.New("decompressing initdata: data after the gzip stream")
	}
	return plain, nil
}
