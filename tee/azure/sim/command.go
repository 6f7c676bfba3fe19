package sim

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// Response codes (TPM 2.0 Library, part 2, section 6.6).
const (
	rcOK            = 0
	rcBadTag        = 0x01e
	rcValue         = 0x084
	rcSize          = 0x095
	rcHandle        = 0x18b // of the first handle
	rcFailure       = 0x101
	rcAuthMissing   = 0x125
	rcCommandSize   = 0x142
	rcCommandCode   = 0x143
	rcNVRange       = 0x146
	rcNVUnwritten   = 0x14a
	rcNVDefined     = 0x14c
	rcLocality      = 0x907
	tagNoSessions   = 0x8001
	tagSessions     = 0x8002
	headerSize      = 10
	maxCommand      = 4096
	maxNV           = 2048 // of an index that the guest defines
	maxNVIndices    = 16
	passwordSession = 0x40000009
)

// command is a command taken apart: the handles, then the parameters.
type command struct {
	code    tpm2.TPMCC
	auth    bool
	handles []tpm2.TPMHandle
	params  *reader
}

// shape says how many handles a command has, and whether the first wants
// authorisation.
var shape = map[tpm2.TPMCC]struct {
	handles int
	auth    bool
	run     func(*VTPM, *command) ([]byte, uint32)
}{
	tpm2.TPMCCPCRRead:       {0, false, (*VTPM).pcrRead},
	tpm2.TPMCCPCRExtend:     {1, true, (*VTPM).pcrExtend},
	tpm2.TPMCCReadPublic:    {1, false, (*VTPM).readPublic},
	tpm2.TPMCCQuote:         {1, true, (*VTPM).quote},
	tpm2.TPMCCNVReadPublic:  {1, false, (*VTPM).nvReadPublic},
	tpm2.TPMCCNVRead:        {2, true, (*VTPM).nvRead},
	tpm2.TPMCCNVWrite:       {2, true, (*VTPM).nvWrite},
	tpm2.TPMCCNVDefineSpace: {1, true, (*VTPM).nvDefine},
	tpm2.TPMCCGetCapability: {0, false, (*VTPM).getCapability},
}

// Send runs one command; what is wrong with it is told by a response code, as a
// TPM does. It implements transport.TPM.
func (v *VTPM) Send(cmd []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clock++
	c, rc := parse(cmd)
	if rc != rcOK {
		return respond(false, nil, rc), nil
	}
	out, rc := shape[c.code].run(v, c)
	return respond(c.auth, out, rc), nil
}

func parse(b []byte) (*command, uint32) {
	be := binary.BigEndian
	if len(b) < headerSize || len(b) > maxCommand || int64(be.Uint32(b[2:])) != int64(len(b)) {
		return nil, rcCommandSize
	}
	tag := be.Uint16(b)
	c := &command{code: tpm2.TPMCC(be.Uint32(b[6:])), auth: tag == tagSessions, params: &reader{b: b[headerSize:]}}
	s, ok := shape[c.code]
	switch {
	case !ok:
		return nil, rcCommandCode
	case tag != tagSessions && tag != tagNoSessions:
		return nil, rcBadTag
	case c.auth != s.auth:
		return nil, rcAuthMissing
	}
	for range s.handles {
		c.handles = append(c.handles, tpm2.TPMHandle(c.params.u32()))
	}
	if c.auth {
		// One session: the empty password. Nothing here is worth another one.
		area := &reader{b: c.params.take(int(c.params.u32()))}
		handle, nonce, _, hmac := area.u32(), area.sized(), area.take(1), area.sized()
		if area.bad || len(area.b) > 0 || handle != passwordSession || len(nonce) > 0 || len(hmac) > 0 {
			return nil, rcAuthMissing
		}
	}
	if c.params.bad {
		return nil, rcCommandSize
	}
	return c, rcOK
}

func respond(auth bool, params []byte, rc uint32) []byte {
	be := binary.BigEndian
	body, tag := params, uint16(tagNoSessions)
	switch {
	case rc != rcOK:
		body = nil
	case auth:
		tag = tagSessions
		body = append(be.AppendUint32(nil, uint32(len(params))), params...)
		body = append(body, 0, 0, 1, 0, 0) // no nonce, continue, no HMAC
	}
	b := be.AppendUint16(nil, tag)
	b = be.AppendUint32(b, uint32(headerSize+len(body)))
	return append(be.AppendUint32(b, rc), body...)
}

// reader takes big-endian parts off its front. After the end everything is zero
// and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// sized takes a TPM2B.
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// end reports whether everything was there and nothing is left.
func (r *reader) end() bool { return !r.bad && len(r.b) == 0 }
