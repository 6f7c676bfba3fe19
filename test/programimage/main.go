// Command programimage puts a program of Coffer's into a container image of its own: an OCI
// layout with one layer, which holds the program and nothing else. The same sources
// give the same image.
//
//	go run ./test/programimage --program coffer-trustee --name registry.example/coffer/trustee:latest --out bin/images/trustee
//
// Trust zone: build.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nobody runs the program: no account of the host's.
const nobody = "65532:65532"

func main() {
	program := flag.String("program", "", "name of the program")
	pkg := flag.String("package", "", "folder of the program's sources (default: cmd/PROGRAM)")
	name := flag.String("name", "", "name of the image")
	out := flag.String("out", "", "folder to make; one that is there is replaced")
	arch := flag.String("arch", "amd64", "architecture")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *program, cmp.Or(*pkg, "./cmd/"+*program), *name, *out, *arch); err != nil {
		fmt.Fprintln(os.Stderr, "programimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program, pkg, name, out, arch string) error {
	if program == "" || name == "" || out == "" || filepath.Base(program) != program {
		return errors.New("--program, --name and --out are needed, and --program is a name, such as that of a folder in cmd/")
	}
	layer, err := buildLayer(ctx, program, pkg, arch)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, config(img, program, arch))
	if err != nil {
		return err
	}
	// Beside, then in its place: nobody reads half of it.
	tmp := out + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	l, err := layout.Write(tmp, empty.Index)
	if err == nil {
		err = l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name}))
	}
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.Rename(tmp, out)
}

func config(img v1.Image, program, arch string) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		panic(err) // of an image in memory
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", arch
	c.Config = v1.Config{Entrypoint: []string{"/" + program}, User: nobody, WorkingDir: "/"}
	return c
}

func buildLayer(ctx context.Context, program, pkg, arch string) (v1.Layer, error) {
	dir, err := os.MkdirTemp("", "coffer-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", exe, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building %s: %w", program, err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	// The time is the same for every build.
	h := &tar.Header{Name: program, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(b)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(plain.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}
