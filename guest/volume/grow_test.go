package volume

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/guest/volume/ext4"
)

// written records where blocks were written.
type written struct {
	t  *testing.T
	at []int64
}

func (w *written) WriteAt(b []byte, at int64) (int, error) {
	if len(b) != blockSize || !bytes.Equal(b, make([]byte, blockSize)) {
		w.t.Errorf("%d bytes at %d, no block of zeros", len(b), at)
	}
	w.at = append(w.at, at)
	return len(b), nil
}

// TestPrepare: blocks of zeros where the kernel looks first, and none in what the file
// system has.
func TestPrepare(t *testing.T) {
	const group = ext4.GroupSize
	for _, c := range []struct {
		has, size int64
		want      []int64
	}{
		{10 << 20, 20 << 20, []int64{20<<20 - blockSize}},
		{group - blockSize, group, []int64{group - blockSize}},
		{group, group + 8<<20, []int64{group, group + 8<<20 - blockSize}},
		{10 << 20, 3 * group, []int64{group, 2 * group, 3*group - blockSize}},
		{127*group + 5<<20, 129*group + blockSize, []int64{128 * group, 129 * group, 129 * group}},
	} {
		w := &written{t: t}
		if err := prepare(w, c.has, c.size); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.at, c.want) {
			t.Errorf("%d to %d: %v, want %v", c.has, c.size, w.at, c.want)
		}
		for _, at := range w.at {
			if at < c.has {
				t.Errorf("%d to %d: a block of the file system, at %d", c.has, c.size, at)
			}
		}
	}
}
