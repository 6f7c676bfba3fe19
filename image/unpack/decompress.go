package unpack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// MaxWindow is the largest zstd window accepted, in bytes: what the decoder
// must keep in memory. All of the zstd tool's levels up to 19 stay within it.
const MaxWindow = 8 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// WindowError refuses a zstd frame because of its window.
type WindowError struct{ Window uint64 }

func (e *WindowError) Error() string {
	return fmt.Sprintf("zstd frame with a window of %d bytes (%d MiB): more than %d MiB; compress the layer again with a smaller window (zstd --long is the usual cause)",
		e.Window, e.Window>>20, MaxWindow>>20)
}

// Decompress gives the plain bytes of r, which may be gzip, zstd or plain, and
// whether it was packed. Close frees the decoder, not r.
func Decompress(r io.Reader) (_ io.ReadCloser, packed bool, _ error) {
	in := bufio.NewReaderSize(r, 64<<10)
	plain, done, err := decompress(in)
	if err != nil {
		return nil, false, err
	}
	return &decompressed{plain, done}, plain != io.Reader(in), nil
}

type decompressed struct {
	io.Reader
	done func()
}

func (d *decompressed) Close() error { d.done(); return nil }

// decompress gives the tar stream in r. What the bytes are decides, not the media
// type: registries are known to mislabel, and the diffID settles what the
// content must be.
func decompress(r *bufio.Reader) (_ io.Reader, done func(), _ error) {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case len(head) == 0:
		return nil, nil, errors.New("is empty: not even an empty tar archive")
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("reading gzip: %w", err)
		}
		return &errorPrefix{z, "reading gzip"}, func() {}, nil
	case isZstd(head):
		tail := &tailReader{r: r}
		z, err := zstd.NewReader(tail, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
		if err != nil {
			return nil, nil, zstdError(err, tail)
		}
		return &zstdReader{z, tail}, z.Close, nil
	}
	return r, func() {}, nil
}

// isZstd knows frames and skippable frames.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, zstdMagic) || len(head) == 4 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50
}

type errorPrefix struct {
	r      io.Reader
	prefix string
}

func (e *errorPrefix) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", e.prefix, err)
	}
	return n, err
}

type zstdReader struct {
	z    *zstd.Decoder
	tail *tailReader
}

func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.z.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = zstdError(err, z.tail)
	}
	return n, err
}

// zstdError names the window where that is what the decoder refused: the frame
// header is the last thing it has read.
func zstdError(err error, tail *tailReader) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		if i := bytes.LastIndex(tail.buf, zstdMagic); i >= 0 {
			var h zstd.Header
			if h.Decode(tail.buf[i:]) == nil {
				w := h.WindowSize
				if h.SingleSegment {
					w = h.FrameContentSize
				}
				return &WindowError{Window: w}
			}
		}
	}
	return fmt.Errorf("reading zstd: %w", err)
}

// tailReader remembers the last bytes it gave, enough for a frame header.
type tailReader struct {
	r   io.Reader
	buf []byte
}

const tailSize = zstd.HeaderMaxSize * 2

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n >= tailSize {
		t.buf = append(t.buf[:0], p[n-tailSize:n]...)
	} else if n > 0 {
		t.buf = append(t.buf, p[:n]...)
		if over := len(t.buf) - tailSize; over > 0 {
			t.buf = append(t.buf[:0], t.buf[over:]...)
		}
	}
	return n, err
}
