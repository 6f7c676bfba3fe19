package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// module makes an ELF object with a .modinfo section.
func module(t *testing.T, info string) []byte {
	t.Helper()
	return section(t, ".modinfo", []byte(info))
}

// section makes an ELF object with one section of content.
func section(t *testing.T, name string, info []byte) []byte {
	t.Helper()
	names := "\x00.shstrtab\x00" + name + "\x00"
	var b bytes.Buffer
	body := append(slices.Clone(info), names...)
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(64 + len(body)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 1,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))},
		{Name: 11, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
	}
	for _, v := range []any{h, body, sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func packXZ(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tree(t *testing.T) *Set {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1-test")
	for name, b := range map[string][]byte{
		"modules.builtin":              []byte("kernel/drivers/virtio/virtio.ko\n"),
		"kernel/net/virtio-net.ko.xz":  packXZ(t, module(t, "license=GPL\x00depends=net-failover,virtio\x00")),
		"kernel/net/net_failover.ko":   module(t, "depends=failover\x00"),
		"kernel/net/failover.ko":       module(t, "depends=\x00"),
		"kernel/misc/wants_missing.ko": module(t, "depends=nowhere\x00"),
		"kernel/misc/circular.ko":      module(t, "depends=circular2\x00"),
		"kernel/misc/circular2.ko":     module(t, "depends=circular\x00"),
		"kernel/misc/broken.ko.xz":     []byte("no xz"),
		"kernel/misc/not_elf.ko":       []byte("no ELF"),
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSelect(t *testing.T) {
	mods, err := tree(t).Select([]string{"virtio", "virtio_net", "failover"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mods {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, " "); got != "failover net_failover virtio_net" {
		t.Errorf("order is %q", got)
	}
}

func TestSelectRefuses(t *testing.T) {
	s := tree(t)
	for _, n := range []string{"nowhere", "wants_missing", "circular", "broken", "not_elf"} {
		if _, err := s.Select([]string{n}); err == nil {
			t.Errorf("%s: accepted", n)
		}
	}
}

func TestOpenNeedsOneRelease(t *testing.T) {
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("accepted a folder without modules")
	}
}

func TestWithoutBTF(t *testing.T) {
	with := section(t, ".BTF", []byte("types"))
	out, err := WithoutBTF(with)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if s := f.Section(".BTF"); s == nil || s.Size != 0 || bytes.Contains(out, []byte("types")) || len(out) != len(with) {
		t.Errorf("section %+v in %q", s, out)
	}
	other := section(t, ".modinfo", []byte("types"))
	if got, err := WithoutBTF(other); err != nil || !bytes.Equal(got, other) {
		t.Errorf("a module without types changed: %v", err)
	}
	for name, m := range map[string][]byte{"no ELF": []byte("types"), "cut": with[:len(with)-1], "empty": nil} {
		if _, err := WithoutBTF(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestUnsigned(t *testing.T) {
	signed := func(elf, sig []byte, length uint32) []byte {
		b := append(slices.Clone(elf), sig...)
		b = append(b, 0, 0, 2, 0, 0, 0, 0, 0)
		return append(binary.BigEndian.AppendUint32(b, length), signatureMagic...)
	}
	elf, sig := []byte("the module"), bytes.Repeat([]byte{7}, 300)
	for name, m := range map[string][]byte{"signed": signed(elf, sig, 300), "unsigned": elf} {
		if got, err := Unsigned(m); err != nil || !bytes.Equal(got, elf) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, m := range map[string][]byte{"too long": signed(elf, sig, 311), "cut": []byte("x" + signatureMagic)} {
		if _, err := Unsigned(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
