package lz4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

func TestPack(t *testing.T) {
	var big bytes.Buffer
	r := rand.New(rand.NewPCG(1, 2))
	for big.Len() < 2*blockSize+1000 {
		fmt.Fprintf(&big, "line %d of something that repeats\n", r.IntN(1000))
	}
	for _, n := range []int{1000, blockSize, blockSize + 100, big.Len()} {
		want := big.Bytes()[:n]
		packed, err := Pack(want)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Pack(want)
		if err != nil || !bytes.Equal(packed, again) {
			t.Errorf("%d bytes: two runs differ, %v", n, err)
		}
		if got := unpack(t, packed); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: unpacks to %d other bytes", n, len(got))
		}
	}
}

func TestPackNoise(t *testing.T) {
	b := make([]byte, 4096)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	packed, err := Pack(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := unpack(t, packed); !bytes.Equal(got, b) {
		t.Error("noise does not survive")
	}
}

// unpack reads a frame the way the kernel does.
func unpack(t *testing.T, b []byte) []byte {
	t.Helper()
	if len(b)%512 != 0 || binary.LittleEndian.Uint32(b) != magic {
		t.Fatal("no legacy frame in whole blocks")
	}
	var out []byte
	for b = b[4:]; ; {
		n := binary.LittleEndian.Uint32(b)
		if n == 0 {
			return out
		}
		buf := make([]byte, blockSize)
		m, err := lz4.UncompressBlock(b[4:4+n], buf)
		if err != nil {
			t.Fatal(err)
		}
		out, b = append(out, buf[:m]...), b[4+n:]
	}
}
