package device

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// nvChunk is what every TPM reads and writes at once, in bytes.
const nvChunk = 512

// nvAuth gives who authorises access: the index itself, or the owner.
func nvAuth(index tpm2.TPMHandle, name tpm2.TPM2BName, owner bool) tpm2.AuthHandle {
	if owner {
		return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	return tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth(nil)}
}

// nvPublic reads size and name of an index.
func nvPublic(t transport.TPM, index uint32) (int, tpm2.TPM2BName, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t)
	if err != nil {
		return 0, tpm2.TPM2BName{}, err
	}
	info, err := pub.NVPublic.Contents()
	if err != nil {
		return 0, tpm2.TPM2BName{}, err
	}
	return int(info.DataSize), pub.NVName, nil
}

// ReadNV reads the whole of an index of at most limit bytes. The error wraps
// tpm2.TPMRCHandle where the TPM has no such index.
func ReadNV(t transport.TPM, index uint32, owner bool, limit int) ([]byte, error) {
	size, name, err := nvPublic(t, index)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%d bytes, at most %d", size, limit)
	}
	h := tpm2.TPMHandle(index)
	out := make([]byte, 0, size)
	for len(out) < size {
		rsp, err := tpm2.NVRead{
			AuthHandle: nvAuth(h, name, owner),
			NVIndex:    tpm2.NamedHandle{Handle: h, Name: name},
			Size:       uint16(min(nvChunk, size-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(t)
		if err != nil {
			return nil, err
		}
		if n := len(rsp.Data.Buffer); n == 0 || n > size-len(out) {
			return nil, errors.New("read gave nothing, or too much")
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out, nil
}

// WriteNV writes the whole of an index by the owner's authority, and defines
// the index if the TPM has none. An index of another size is an error.
func WriteNV(t transport.TPM, index uint32, b []byte) error {
	if len(b) > nvChunk {
		return fmt.Errorf("writing NV index %#x: %d bytes, at most %d", index, len(b), nvChunk)
	}
	h := tpm2.TPMHandle(index)
	size, name, err := nvPublic(t, index)
	if errors.Is(err, tpm2.TPMRCHandle) {
		if _, err = (tpm2.NVDefineSpace{AuthHandle: nvAuth(h, name, true), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: h, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(b)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true, NoDA: true},
		})}).Execute(t); err != nil {
			return fmt.Errorf("defining NV index %#x: %w", index, err)
		}
		size, name, err = nvPublic(t, index)
	}
	if err != nil {
		return fmt.Errorf("writing NV index %#x: %w", index, err)
	}
	if size != len(b) {
		return fmt.Errorf("writing NV index %#x: it has %d bytes, not %d", index, size, len(b))
	}
	if _, err := (tpm2.NVWrite{
		AuthHandle: nvAuth(h, name, true), NVIndex: tpm2.NamedHandle{Handle: h, Name: name}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: b},
	}).Execute(t); err != nil {
		return fmt.Errorf("writing NV index %#x: %w", index, err)
	}
	return nil
}
