package vmm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
)

const (
	initdataMagic  = "initdata"
	sectorSize     = 512
	maxInitdataZip = 1 << 20
)

// InitdataDisk gives the published format of the initdata disk: the magic, the
// length of the gzip stream (64 bits, little endian), the stream, zeros up to a
// full sector.
func InitdataDisk(plain []byte) ([]byte, error) {
	if len(plain) > launch.MaxInitdata {
		return nil, fmt.Errorf("initdata: %d bytes, at most %d", len(plain), launch.MaxInitdata)
	}
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression) // as who sealed it has measured its size
	if err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing initdata: %w", err)
	}
	if z.Len() > maxInitdataZip {
		return nil, fmt.Errorf("initdata: %d bytes compressed, at most %d", z.Len(), maxInitdataZip)
	}
	b := []byte(initdataMagic)
	b = binary.LittleEndian.AppendUint64(b, uint64(z.Len()))
	b = append(b, z.Bytes()...)
	if r := len(b) % sectorSize; r != 0 {
		b = append(b, make([]byte, sectorSize-r)...)
	}
	return b, nil
}
