package measure

import "fmt"

// libraryOSSize is the address range of the simulated enclave: it holds a manifest
// with room to spare.
const libraryOSSize = 1 << 20

// LibraryOS gives MRENCLAVE of the simulated enclave of a process TEE
// (api/libos/SPEC.md): read-only pages from offset 0 on that hold the manifest, wholly
// measured, the last one padded with zeros. Real enclaves hold code; this one holds
// what names all of it by digest.
func LibraryOS(manifest []byte) ([32]byte, error) {
	if len(manifest) == 0 || len(manifest) > libraryOSSize {
		return [32]byte{}, fmt.Errorf("mrenclave: manifest of %d bytes, at least 1 and at most %d", len(manifest), libraryOSSize)
	}
	b, err := New(libraryOSSize, 1)
	if err != nil {
		return [32]byte{}, err
	}
	for at := 0; at < len(manifest); at += PageSize {
		page := make([]byte, PageSize)
		copy(page, manifest[at:])
		if err := b.Add(&Page{Offset: uint64(at), Flags: Regular | Read, Data: page, Measured: AllChunks}); err != nil {
			return [32]byte{}, err
		}
	}
	return b.MREnclave(), nil
}
