package sim

import (
	"bytes"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/tee/azure"
)

func (v *VTPM) nvReadPublic(c *command) ([]byte, uint32) {
	x, ok := v.nv[c.handles[0]]
	if !ok {
		return nil, rcHandle
	}
	area := tpm2.Marshal(x.public)
	out := append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
	return append(out, tpm2.Marshal(nameOf(area))...), rcOK
}

func (v *VTPM) nvRead(c *command) ([]byte, uint32) {
	x, ok := v.nv[c.handles[1]]
	size, off := int(c.params.u16()), int(c.params.u16())
	switch {
	case !ok:
		return nil, rcHandle
	case !c.params.end():
		return nil, rcSize
	case x.data == nil:
		return nil, rcNVUnwritten
	case size > 1024 || off+size > len(x.data):
		return nil, rcNVRange
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(size)), x.data[off:off+size]...), rcOK
}

// nvWrite writes an index of the guest's. What goes into the user data's makes
// the paravisor renew its report.
func (v *VTPM) nvWrite(c *command) ([]byte, uint32) {
	x, ok := v.nv[c.handles[1]]
	data, off := c.params.sized(), int(c.params.u16())
	switch {
	case !ok || c.handles[1] == azure.NVReport:
		return nil, rcHandle
	case !c.params.end():
		return nil, rcSize
	case off+len(data) > int(x.public.DataSize):
		return nil, rcNVRange
	}
	if x.data == nil {
		x.data = make([]byte, x.public.DataSize)
		x.public.Attributes.Written = true
	}
	copy(x.data[off:], data)
	if c.handles[1] == azure.NVUserData {
		if v.refresh(bytes.Clone(x.data)) != nil {
			return nil, rcFailure
		}
	}
	return nil, rcOK
}

func (v *VTPM) nvDefine(c *command) ([]byte, uint32) {
	auth, area := c.params.sized(), c.params.sized()
	p, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](area)
	switch {
	case c.handles[0] != tpm2.TPMRHOwner:
		return nil, rcHandle
	case err != nil || len(auth) > 0 || !c.params.end() || !bytes.Equal(tpm2.Marshal(*p), area):
		return nil, rcValue
	case p.NVIndex>>24 != 0x01 || p.NameAlg != tpm2.TPMAlgSHA256 || p.DataSize > maxNV || len(v.nv) > maxNVIndices || p.Attributes.Written:
		return nil, rcValue
	case p.NVIndex == azure.NVUserData && p.DataSize != azure.UserDataSize:
		return nil, rcValue
	}
	if _, dup := v.nv[p.NVIndex]; dup {
		return nil, rcNVDefined
	}
	v.nv[p.NVIndex] = &nvIndex{public: *p}
	return nil, rcOK
}
