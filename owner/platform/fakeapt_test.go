package platform

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tests run Ensure against a fake apt: this test binary under the names
// apt-get, apt-cache and dpkg-deb. It serves the folder FAKE_ARCHIVE, which
// holds <suite>/<package>/<version>, each with a package's bytes; a first line
// "Depends: ..." becomes that field.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "apt-get", "apt-cache", "dpkg-deb":
		if err := fake(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "E:", err)
			os.Exit(100)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fake(prog string, args []string) error {
	archive := os.Getenv("FAKE_ARCHIVE")
	if err := note(archive, prog+" "+strings.Join(args, " ")); err != nil {
		return err
	}
	var words []string
	suite := ""
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-o":
			i++
			if p, ok := strings.CutPrefix(args[i], "Dir::Etc::sourcelist="); ok {
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				f := strings.Fields(string(b))
				suite = f[len(f)-2]
			}
		case strings.HasPrefix(args[i], "-") && prog != "dpkg-deb":
		default:
			words = append(words, args[i])
		}
	}
	switch {
	case prog == "dpkg-deb":
		b, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		if err := os.MkdirAll(args[2], 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(args[2], "content"), b, 0o644)
	case words[0] == "indextargets":
		fmt.Println("http://security.example/debian-security/ trixie-security main trixie-security")
		fmt.Println("http://mirror.example/debian/ bookworm main bookworm")
		return nil
	case words[0] == "update":
		return nil
	}
	name, version, _ := strings.Cut(words[1], "=")
	if version == "" {
		es, err := os.ReadDir(filepath.Join(archive, suite, name))
		if err != nil || len(es) == 0 {
			return fmt.Errorf("no packages found")
		}
		slices.SortFunc(es, func(a, b os.DirEntry) int { return strings.Compare(b.Name(), a.Name()) })
		version = es[0].Name()
	}
	b, err := os.ReadFile(filepath.Join(archive, suite, name, version))
	if err != nil {
		return fmt.Errorf("version %s for %s was not found", version, name)
	}
	if words[0] == "download" {
		if tamper := os.Getenv("FAKE_TAMPER"); tamper == name {
			b = append(b, "tampered"...)
		}
		return os.WriteFile(name+".deb", b, 0o644)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	fmt.Printf("Package: %s\nVersion: %s\nSHA256: %x\nDescription: x\n continued: y\n", name, version, sha256.Sum256(b))
	if strings.HasPrefix(first, "Depends: ") {
		fmt.Println(first)
	}
	fmt.Printf("\nPackage: other\nVersion: 0\n")
	return nil
}

func note(archive, line string) error {
	f, err := os.OpenFile(filepath.Join(archive, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, line)
	return err
}

// fakeArchive is an archive with everything that is wanted, in PATH.
type fakeArchive struct {
	t   *testing.T
	dir string
}

func newArchive(t *testing.T) *fakeArchive {
	t.Helper()
	if _, err := os.Stat(keyring); err != nil {
		t.Skip("no Debian archive keyring on this machine")
	}
	a := &fakeArchive{t, t.TempDir()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, n := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if err := os.Symlink(exe, filepath.Join(bin, n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("FAKE_ARCHIVE", a.dir)
	a.put("bookworm-backports", "linux-image-cloud-amd64", "6.12.1", "Depends: linux-image-6.12.1-cloud-amd64 (= 6.12.1-1), other")
	a.put("bookworm-backports", "linux-image-6.12.1-cloud-amd64", "6.12.1-1", "kernel 1")
	a.put("bookworm", "ovmf", "2022.11-6", "firmware")
	a.put("forky", "ovmf-amdsev", "2026.08-2", "firmware with a table of hashes")
	a.put("forky", "ovmf-inteltdx", "2026.08-2", "firmware for TDX")
	for _, n := range []string{"qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"} {
		a.put("bookworm-backports", n, "1:10.0.2", n)
		a.put("trixie", n, "1:10.0.9", n)
	}
	return a
}

func (a *fakeArchive) put(suite, name, version, text string) {
	a.t.Helper()
	p := filepath.Join(a.dir, suite, name, version)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

// newKernel replaces the kernel by a newer one, as a mirror does.
func (a *fakeArchive) newKernel() {
	a.t.Helper()
	for _, n := range []string{"linux-image-cloud-amd64", "linux-image-6.12.1-cloud-amd64"} {
		if err := os.RemoveAll(filepath.Join(a.dir, "bookworm-backports", n)); err != nil {
			a.t.Fatal(err)
		}
	}
	a.put("bookworm-backports", "linux-image-cloud-amd64", "6.12.2", "Depends: linux-image-6.12.2-cloud-amd64 (= 6.12.2-1)")
	a.put("bookworm-backports", "linux-image-6.12.2-cloud-amd64", "6.12.2-1", "kernel 2")
}

func (a *fakeArchive) calls() int {
	b, err := os.ReadFile(filepath.Join(a.dir, "calls"))
	if err != nil {
		return 0
	}
	return strings.Count(string(b), "\n")
}
