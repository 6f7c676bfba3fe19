package eventlog

import (
	"encoding/binary"

	"github.com/cofferproject/coffer/api/refvalue"
)

// TagAAEL marks EV_EVENT_TAG events of the attestation agent: the bytes "LEAA".
const TagAAEL = 0x4141454c

// Padding stands behind the last entry of a confidential computing log that is
// sent as evidence.
var Padding = []byte("\xff\xff\xff\xff\xff\xff\xff\xff")

// extends reports whether the event went into its register.
func (e *Event) extends() bool { return e.Type != refvalue.NoAction }

// Append adds the entry to a log.
func (e *Event) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, e.Register)
	b = le.AppendUint32(b, uint32(e.Type))
	b = le.AppendUint32(b, uint32(len(e.Digests)))
	for _, d := range e.Digests {
		b = le.AppendUint16(b, uint16(d.Algorithm))
		b = append(b, d.Sum...)
	}
	b = le.AppendUint32(b, uint32(len(e.Data)))
	return append(b, e.Data...)
}

// NewEvent makes an event whose digests are those of data.
func NewEvent(register uint32, t refvalue.EventType, data []byte, algs ...Algorithm) Event {
	e := Event{Register: register, Type: t, Data: data}
	for _, a := range algs {
		e.Digests = append(e.Digests, Digest{a, a.Hash(data)})
	}
	return e
}

// NewAAEL makes the event of one line of the attestation agent's log.
func NewAAEL(register uint32, text string, a Algorithm) Event {
	b := binary.LittleEndian.AppendUint32(nil, TagAAEL)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	return NewEvent(register, refvalue.EventTag, append(b, text...), a)
}

// SpecHeader is the first entry of a log: of a TCG2 log in the form that EDK2
// writes (register 1, "Spec ID Event03"), which names algorithms.
func SpecHeader(algs ...Algorithm) []byte {
	return header(1, append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2), algs)
}

// AAELHeader is the published header of a log that has AAEL entries alone:
// register 0, no signature, SHA-384 and SM3; 69 bytes.
func AAELHeader() []byte {
	return header(0, make([]byte, 24), []Algorithm{SHA384, SM3})
}

func header(register uint32, id []byte, algs []Algorithm) []byte {
	le := binary.LittleEndian
	d := le.AppendUint32(id, uint32(len(algs)))
	for _, a := range algs {
		d = le.AppendUint16(d, uint16(a))
		d = le.AppendUint16(d, uint16(sizes[a]))
	}
	d = append(d, 0) // vendor information
	b := le.AppendUint32(nil, register)
	b = le.AppendUint32(b, uint32(refvalue.NoAction))
	b = append(b, make([]byte, 20)...)
	return append(le.AppendUint32(b, uint32(len(d))), d...)
}

// ByName gives the algorithm that attest.Extender names: "sha256", "sha384",
// "sha512", "sm3".
func ByName(name string) (Algorithm, bool) {
	a, ok := map[string]Algorithm{"sha256": SHA256, "sha384": SHA384, "sha512": SHA512, "sm3": SM3}[name]
	return a, ok
}

// Size is the length of the algorithm's digests, 0 for an unknown one.
func (a Algorithm) Size() int { return sizes[a] }
