package unpacker

import (
	"io"
	"time"
)

// Times say where the time of an image or layer went. A parser's word, for
// figures alone: nothing depends on them.
type Times struct {
	Resolve time.Duration `json:"resolve,omitempty"` // manifest and config
	Key     time.Duration `json:"key,omitempty"`     // waiting for the key holder
	Fetch   time.Duration `json:"fetch,omitempty"`   // waiting for the registry, TLS and blob digest included
	Decrypt time.Duration `json:"decrypt,omitempty"`
	Unpack  time.Duration `json:"unpack,omitempty"` // decompressing, tar, handing over to the writer
}

func (t *Times) add(o *Times) {
	t.Key += o.Key
	t.Fetch += o.Fetch
	t.Decrypt += o.Decrypt
	t.Unpack += o.Unpack
}

// timed adds up how long the reads of r take.
type timed struct {
	r io.Reader
	d *time.Duration
}

func (t *timed) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := t.r.Read(p)
	*t.d += time.Since(began)
	return n, err
}
