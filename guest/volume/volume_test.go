package volume

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// disk makes a disk of this size that begins with head.
func disk(t *testing.T, size int64, head []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func secretOf(b byte) []byte { return bytes.Repeat([]byte{b}, MinKey) }

// sealed is the header of a volume.
func sealed(t *testing.T, secret []byte, name string, size uint64) []byte {
	t.Helper()
	return sealedAs(t, secret, name, size, false)
}

func sealedAs(t *testing.T, secret []byte, name string, size uint64, block bool) []byte {
	t.Helper()
	h := &header{disk: size, sectors: 4096, block: block}
	_, _ = rand.Read(h.salt[:])
	k, err := deriveKeys(secret, h.salt, name)
	if err != nil {
		t.Fatal(err)
	}
	return h.encode(k)
}

// What a disk may begin with, and what the guest makes of it.
func TestUnlock(t *testing.T) {
	const size = 64 << 20
	data := &podpolicy.Volume{Name: "data", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/data"}
	fresh := *data
	fresh.New = true
	large := *data
	large.SizeLimit = size + 1
	device := *data
	device.Block = true
	freshDevice := device
	freshDevice.New = true
	good := sealed(t, secretOf(1), "data", size)
	raw := sealedAs(t, secretOf(1), "data", size, true)
	changed := func(at int) []byte { b := bytes.Clone(good); b[at] ^= 1; return b }
	for _, c := range []struct {
		name   string
		volume *podpolicy.Volume
		size   int64
		head   []byte
		want   denial.Reason // "": it opens
	}{
		{"the volume", data, size, good, ""},
		{"the volume, where it may be new", &fresh, size, good, ""},
		{"empty", data, size, nil, DiskEmpty},
		{"another key", data, size, sealed(t, secretOf(2), "data", size), KeyMismatch},
		{"another key, where it may be new", &fresh, size, sealed(t, secretOf(2), "data", size), KeyMismatch},
		{"another volume's", data, size, sealed(t, secretOf(1), "logs", size), KeyMismatch},
		{"shrunk", data, size, sealed(t, secretOf(1), "data", size+4096), DiskTooSmall},
		{"shrunk, where it may be new", &fresh, size, sealed(t, secretOf(1), "data", size+4096), DiskTooSmall},
		{"grown", data, size + 4096, good, ""},
		{"grown, with another key", data, size + 4096, sealed(t, secretOf(2), "data", size), KeyMismatch},
		{"a device", &device, size, raw, ""},
		{"a device where a file system belongs", data, size, raw, KindMismatch},
		{"a device where a file system may be new", &fresh, size, raw, KindMismatch},
		{"a file system where a device belongs", &device, size, good, KindMismatch},
		{"a file system where a device may be new", &freshDevice, size, good, KindMismatch},
		{"made a device by who has no key", &device, size, changed(atKind), KeyMismatch},
		{"of an unknown kind", data, size, changed(atKind + 1), DiskForeign},
		{"too small for anything", data, podpolicy.MinDisk - 1, good, DiskTooSmall},
		{"smaller than the policy says", &large, size, good, DiskTooSmall},
		{"a file system, where it may be new", &fresh, size, append(make([]byte, 1080), 0x53, 0xef), DiskForeign},
		{"magic changed", data, size, changed(0), DiskForeign},
		{"version changed", data, size, changed(atVersion), DiskForeign},
		{"zeros changed", data, size, changed(HeaderSize - 1), DiskForeign},
		{"salt changed", data, size, changed(atSalt), KeyMismatch},
		{"size changed", data, size, changed(atDisk), KeyMismatch},
		{"sectors changed", data, size, changed(atSectors + 7), KeyMismatch},
		{"MAC changed", data, size, changed(atMAC), KeyMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, k, now, err := unlock(c.volume, disk(t, c.size, c.head), secretOf(1))
			if c.want == "" {
				if err != nil || h == nil || h.sectors != 4096 || now != uint64(c.size) || h.disk != size || len(k.crypt) != cryptKeySize {
					t.Fatalf("%+v, %v", h, err)
				}
				return
			}
			d, ok := denial.As(refusal(c.volume, err))
			if !ok || d.Reason != c.want || d.Claim != "volumes[data]" {
				t.Fatalf("%v", err)
			}
		})
	}
	h, _, _, err := unlock(&fresh, disk(t, size, nil), secretOf(1))
	if h != nil || err != nil {
		t.Errorf("an empty disk that may become the volume: %+v, %v", h, err)
	}
}

// Keys differ by what they are for, by secret, salt and name.
func TestKeysDiffer(t *testing.T) {
	var salt [saltSize]byte
	seen := map[string]bool{}
	for _, c := range []struct {
		secret byte
		salt   byte
		name   string
	}{{1, 0, "a"}, {2, 0, "a"}, {1, 1, "a"}, {1, 0, "b"}} {
		salt[0] = c.salt
		k, err := deriveKeys(secretOf(c.secret), salt, c.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{k.crypt[:32], k.crypt[32:64], k.crypt[64:], k.journal, k.header} {
			if seen[string(b)] || len(b) != 32 {
				t.Errorf("%+v: a key of %d bytes comes twice", c, len(b))
			}
			seen[string(b)] = true
		}
		k.clear()
		if !bytes.Equal(k.crypt, make([]byte, cryptKeySize)) {
			t.Error("a key is not cleared")
		}
	}
}

func TestBySerial(t *testing.T) {
	sys := t.TempDir()
	for name, serial := range map[string]string{"vda": "initdata\n", "vdb": podpolicy.DiskSerial("data"), "vdc": "vol-0000000000000000", "sda": podpolicy.DiskSerial("data")} {
		if err := os.Mkdir(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, name, "serial"), []byte(serial), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) func(string) bool { return func(s string) bool { return s == want } }
	if got, err := bySerial(sys, is(podpolicy.DiskSerial("data"))); err != nil || len(got) != 1 || got[0] != "/dev/vdb" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := bySerial(sys, is(podpolicy.DiskSerial("logs"))); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(make([]byte, HeaderSize))
	h := &header{disk: 1 << 30, sectors: 1 << 20, block: true}
	k, err := deriveKeys(secretOf(1), h.salt, "data")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h.encode(k))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if h != nil || errors.Is(err, errEmpty) != bytes.Equal(b, make([]byte, HeaderSize)) {
				t.Fatalf("%+v, %v", h, err)
			}
			return
		}
		k, err := deriveKeys(secretOf(2), h.salt, "data")
		if err != nil {
			t.Fatal(err)
		}
		if h.verify(b, k) {
			t.Fatal("a header under a key that nobody has")
		}
		// What is read is all there is: written again under the same MAC it is the same.
		again := h.encode(k)
		copy(again[atMAC:], b[atMAC:headerEnd])
		if !bytes.Equal(again, b) {
			t.Fatal("a header with more in it than is read")
		}
	})
}

// A process has no devices.
func TestStoresRefuseDevices(t *testing.T) {
	s := NewStores(Options{}, []*os.File{disk(t, 64<<20, nil)})
	v := &podpolicy.Volume{Name: "data", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/data", New: true, Block: true}
	_, err := s.Open(t.Context(), v)
	if d, ok := denial.As(err); !ok || d.Reason != BlockUnsupported || d.Claim != "volumes[data]" {
		t.Errorf("%v", err)
	}
}
