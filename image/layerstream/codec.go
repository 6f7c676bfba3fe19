package layerstream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	magic      = "CLS1"
	headerSize = 64
)

// ErrCut is what reading a stream without its end record gives.
var ErrCut = errors.New("layer record stream ended early")

// Encoder writes a stream. After an error it is useless.
type Encoder struct {
	w       *bufio.Writer
	hdr     [headerSize]byte
	xattrs  []byte
	started bool
	left    int64 // content bytes still due for the last file
	entries uint64
	bytes   int64
}

// NewEncoder gives an Encoder that buffers in front of w.
func NewEncoder(w io.Writer) *Encoder { return &Encoder{w: bufio.NewWriterSize(w, 64<<10)} }

// Put writes a record's header. For a File with Size > 0, exactly Size bytes
// must follow through ReadFrom before the next Put.
func (e *Encoder) Put(r *Record) error {
	if e.left != 0 {
		return fmt.Errorf("layer record stream: %d bytes of content are missing", e.left)
	}
	if err := r.check(); err != nil {
		return err
	}
	if !e.started {
		if _, err := e.w.WriteString(magic); err != nil {
			return err
		}
		e.started = true
	}
	e.xattrs = e.xattrs[:0]
	for i := range r.Xattrs {
		x := &r.Xattrs[i]
		e.xattrs = append(e.xattrs, byte(len(x.Name)))
		e.xattrs = binary.LittleEndian.AppendUint32(e.xattrs, uint32(len(x.Value)))
		e.xattrs = append(e.xattrs, x.Name...)
		e.xattrs = append(e.xattrs, x.Value...)
	}
	h := e.hdr[:0]
	h = append(h, byte(r.Type), byte(len(r.Xattrs)))
	h = binary.LittleEndian.AppendUint16(h, r.Mode)
	h = binary.LittleEndian.AppendUint32(h, r.UID)
	h = binary.LittleEndian.AppendUint32(h, r.GID)
	h = binary.LittleEndian.AppendUint32(h, r.MTimeNano)
	h = binary.LittleEndian.AppendUint64(h, uint64(r.MTime))
	h = binary.LittleEndian.AppendUint64(h, uint64(r.Size))
	h = binary.LittleEndian.AppendUint32(h, r.Major)
	h = binary.LittleEndian.AppendUint32(h, r.Minor)
	h = binary.LittleEndian.AppendUint64(h, r.Entries)
	h = binary.LittleEndian.AppendUint16(h, uint16(len(r.Path)))
	h = binary.LittleEndian.AppendUint16(h, uint16(len(r.Link)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(e.xattrs)))
	h = binary.LittleEndian.AppendUint64(h, 0) // reserved
	if _, err := e.w.Write(h); err != nil {
		return err
	}
	if _, err := e.w.WriteString(r.Path); err != nil {
		return err
	}
	if _, err := e.w.WriteString(r.Link); err != nil {
		return err
	}
	if _, err := e.w.Write(e.xattrs); err != nil {
		return err
	}
	e.entries++
	if r.Type == File {
		e.left = r.Size
		e.bytes += r.Size
	}
	return nil
}

// Write gives content of the last file.
func (e *Encoder) Write(b []byte) (int, error) {
	if int64(len(b)) > e.left {
		return 0, fmt.Errorf("layer record stream: %d bytes of content more than declared", int64(len(b))-e.left)
	}
	n, err := e.w.Write(b)
	e.left -= int64(n)
	return n, err
}

// Finish writes the end record and flushes. Call it only once the whole layer is
// known to be good: the writer reports success after it.
func (e *Encoder) Finish() error {
	if err := e.Put(&Record{Type: End, Entries: e.entries, Size: e.bytes}); err != nil {
		return err
	}
	return e.w.Flush()
}

// Decoder reads a stream.
type Decoder struct {
	r       *bufio.Reader
	hdr     [headerSize]byte
	buf     []byte
	started bool
	done    bool
	left    int64
	entries uint64
	bytes   int64
}

// NewDecoder gives a Decoder that buffers behind r.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{r: bufio.NewReaderSize(r, 64<<10)} }

// Next gives the next record and io.EOF after the end record. What is unread of
// the last file's content is skipped.
func (d *Decoder) Next() (*Record, error) {
	if d.done {
		return nil, io.EOF
	}
	if err := d.start(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(d.r, d.hdr[:]); err != nil {
		return nil, cut(err)
	}
	h, le := d.hdr[:], binary.LittleEndian
	r := &Record{
		Type: Type(h[0]), Mode: le.Uint16(h[2:]), UID: le.Uint32(h[4:]), GID: le.Uint32(h[8:]), MTimeNano: le.Uint32(h[12:]),
		MTime: int64(le.Uint64(h[16:])), Size: int64(le.Uint64(h[24:])), Major: le.Uint32(h[32:]), Minor: le.Uint32(h[36:]), Entries: le.Uint64(h[40:]),
	}
	nx, npath, nlink, nxattr := int(h[1]), int(le.Uint16(h[48:])), int(le.Uint16(h[50:])), le.Uint32(h[52:])
	if le.Uint64(h[56:]) != 0 {
		return nil, errors.New("layer record stream: reserved bytes are not zero")
	}
	if npath > MaxPath || nlink > MaxLink || nx > MaxXattrs || nxattr > MaxXattrLen+MaxXattrs*5 {
		return nil, fmt.Errorf("layer record stream: lengths %d, %d, %d, %d are out of bounds", npath, nlink, nx, nxattr)
	}
	need := npath + nlink + int(nxattr)
	if cap(d.buf) < need {
		d.buf = make([]byte, need)
	}
	b := d.buf[:need]
	if _, err := io.ReadFull(d.r, b); err != nil {
		return nil, cut(err)
	}
	r.Path, r.Link = string(b[:npath]), string(b[npath:npath+nlink])
	var err error
	if r.Xattrs, err = parseXattrs(b[npath+nlink:], nx); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("layer record stream: %w", err)
	}
	if r.Type == End {
		if r.Entries != d.entries || r.Size != d.bytes {
			return nil, fmt.Errorf("layer record stream: %d records and %d bytes, the end record says %d and %d", d.entries, d.bytes, r.Entries, r.Size)
		}
		d.done = true
		return nil, io.EOF
	}
	d.entries++
	if r.Type == File {
		d.left = r.Size
		if d.bytes += r.Size; d.bytes < 0 {
			return nil, errors.New("layer record stream: sizes overflow")
		}
	}
	return r, nil
}

func (d *Decoder) start() error {
	if d.left > 0 {
		if _, err := io.CopyN(io.Discard, d.r, d.left); err != nil {
			return cut(err)
		}
		d.left = 0
	}
	if d.started {
		return nil
	}
	var m [len(magic)]byte
	if _, err := io.ReadFull(d.r, m[:]); err != nil {
		return cut(err)
	}
	if string(m[:]) != magic {
		return errors.New("layer record stream: wrong magic")
	}
	d.started = true
	return nil
}

// Read gives content of the last file and io.EOF at its end.
func (d *Decoder) Read(b []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > d.left {
		b = b[:d.left]
	}
	n, err := d.r.Read(b)
	d.left -= int64(n)
	if err == io.EOF && d.left > 0 {
		err = ErrCut
	} else if err == io.EOF {
		err = nil
	}
	return n, err
}

func parseXattrs(b []byte, n int) ([]Xattr, error) {
	bad := errors.New("layer record stream: malformed extended attributes")
	if n == 0 {
		if len(b) != 0 {
			return nil, bad
		}
		return nil, nil
	}
	out := make([]Xattr, 0, n)
	for range n {
		if len(b) < 5 {
			return nil, bad
		}
		nn, nv := int(b[0]), int64(binary.LittleEndian.Uint32(b[1:]))
		if b = b[5:]; int64(len(b)) < int64(nn)+nv {
			return nil, bad
		}
		out = append(out, Xattr{Name: string(b[:nn]), Value: append([]byte(nil), b[nn:nn+int(nv)]...)})
		b = b[nn+int(nv):]
	}
	if len(b) != 0 {
		return nil, bad
	}
	return out, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return fmt.Errorf("reading layer record stream: %w", err)
}
