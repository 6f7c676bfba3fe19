package boot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
)

// register is a Register with a memory.
type register struct {
	tee    string
	err    error
	digest []byte
}

func (r *register) TEE() string { return r.tee }

func (r *register) BindInitdata(d []byte, _ bool) error {
	if r.digest != nil {
		return errors.New("bound twice")
	}
	r.digest = d
	return r.err
}

const document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"b\"\n"

func TestBindComesBeforeParse(t *testing.T) {
	none := initdata.NoneDigest()
	for name, c := range map[string]struct {
		plain []byte
		reg   *register
		err   string
	}{
		"document":          {[]byte(document), &register{tee: "tpm"}, ""},
		"no device":         {nil, &register{tee: "tpm"}, ""},
		"broken document":   {[]byte("{"), &register{tee: "tpm"}, "parsing"},
		"empty document":    {[]byte{}, &register{tee: "tpm"}, "version"},
		"another algorithm": {[]byte(document), &register{tee: "tdx"}, "algorithm"},
		"register refuses":  {[]byte(document), &register{tee: "tpm", err: errors.New("PCR 8 is not zero")}, "PCR 8"},
		"unknown TEE":       {[]byte(document), &register{tee: "csv"}, "no algorithm"},
	} {
		in, err := bind(c.plain, c.reg)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			if c.reg.tee == "tpm" && c.reg.digest == nil {
				t.Errorf("%s: nothing was bound before the error", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := none[:]
		if c.plain != nil {
			if want, err = initdata.Digest(initdata.SHA256, c.plain); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(c.reg.digest, want) || (in.Document == nil) != (c.plain == nil) || in.Policy != nil {
			t.Errorf("%s: bound %x, want %x; %+v", name, c.reg.digest, want, in)
		}
	}
}

func disk(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExactlyOneDevice(t *testing.T) {
	good, err := initdata.EncodeDevice([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := initdata.EncodeDevice(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Repeat([]byte("data"), 1024)
	long := append([]byte("initdata"), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0)
	for name, c := range map[string]struct {
		disks [][]byte
		err   string
		plain string
		none  bool
	}{
		"none":             {nil, "", "", true},
		"another disk":     {[][]byte{other}, "", "", true},
		"one":              {[][]byte{good}, "", document, false},
		"one among others": {[][]byte{other, good, nil}, "", document, false},
		"two":              {[][]byte{good, other, good}, "two initdata devices, vda and vdc", "", false},
		"two, one empty":   {[][]byte{empty, good}, "two initdata devices", "", false},
		"an empty one":     {[][]byte{empty}, "", "", false},
		"one, one broken":  {[][]byte{good, good[:40]}, "vdb", "", false},
		"too long":         {[][]byte{long}, "at most", "", false},
	} {
		dir := t.TempDir()
		var names []string
		for i, d := range c.disks {
			n := "vd" + string(rune('a'+i))
			disk(t, dir, n, d)
			names = append(names, n)
		}
		plain, err := readOne(dir, names)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || string(plain) != c.plain || (plain == nil) != c.none {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
}

func TestDisksAreWaitedFor(t *testing.T) {
	sys := t.TempDir()
	device := func(name, id string, blocks ...string) {
		for _, d := range append([]string{""}, blocks...) {
			dir := filepath.Join(sys, name)
			if d != "" {
				dir = filepath.Join(dir, "block", d)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		disk(t, filepath.Join(sys, name), "device", []byte(id+"\n"))
	}
	device("virtio0", "0x0003")
	device("virtio1", "0x0002", "vda")
	if got, err := virtioDisks(sys, 0); err != nil || len(got) != 1 || got[0] != "vda" {
		t.Errorf("disks %v, %v", got, err)
	}
	device("virtio2", "0x0002")
	if _, err := virtioDisks(sys, 0); err == nil {
		t.Error("a disk without a driver is left out")
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = os.MkdirAll(filepath.Join(sys, "virtio2", "block", "vdb"), 0o755) })
	if got, err := virtioDisks(sys, 5*time.Second); err != nil || len(got) != 2 {
		t.Errorf("disks %v, %v", got, err)
	}
	if got, err := virtioDisks(filepath.Join(sys, "absent"), 0); err != nil || len(got) != 0 {
		t.Errorf("no virtio bus: %v, %v", got, err)
	}
}

// FuzzDevice feeds the bytes of a disk of the host's.
func FuzzDevice(f *testing.F) {
	good, err := initdata.EncodeDevice([]byte(document))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte("initdata"))
	f.Add(bytes.Repeat([]byte{0xff}, 600))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(dir, "disk")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		plain, err := readDevice(file)
		if err != nil {
			return
		}
		if len(plain) > initdata.MaxPlain || !bytes.HasPrefix(b, []byte(initdata.Magic)) {
			t.Errorf("%d bytes from a device of %d", len(plain), len(b))
		}
	})
}
