package guestimage

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const modulePath = "github.com/cofferproject/coffer"

// ErrNoSource says that Coffer's source tree was not found.
var ErrNoSource = errors.New("source tree not found")

// FindSource looks for Coffer's source tree at dir and above it.
func FindSource(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding source: %w", err)
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil {
			first, _, _ := strings.Cut(string(b), "\n")
			if strings.TrimSpace(first) == "module "+modulePath {
				return dir, nil
			}
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ErrNoSource
		}
		dir = up
	}
}

// goSettings are the parts of the environment that change what the compiler
// makes; each is set to one value, so that a developer's own do not reach the
// measurement.
var goSettings = []string{
	"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=", "GOEXPERIMENT=",
	"GOWORK=off", "GOFIPS140=off", "GODEBUG=", "GO111MODULE=on", "GO_EXTLINK_ENABLED=", "GCCGO=",
	"GOTOOLCHAIN=local",
}

// goBuild compiles one command of the source tree, reproducibly.
func goBuild(ctx context.Context, source, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = source
	cmd.Env = append(cleanEnv(os.Environ()), goSettings...)
	cmd.WaitDelay = 5 * time.Second
	if b, err := cmd.CombinedOutput(); err != nil {
		s := strings.TrimSpace(string(b))
		if len(s) > 2000 {
			s = s[:2000] + " ..."
		}
		return fmt.Errorf("building %s: %w: %s", pkg, err, s)
	}
	return nil
}

func cleanEnv(env []string) []string {
	set := map[string]bool{}
	for _, s := range goSettings {
		k, _, _ := strings.Cut(s, "=")
		set[k] = true
	}
	var out []string
	for _, s := range env {
		if k, _, _ := strings.Cut(s, "="); !set[k] {
			out = append(out, s)
		}
	}
	return out
}

// goVersion is the compiler's version; it is part of what makes the image.
func goVersion(ctx context.Context, source string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION")
	cmd.Dir = source
	cmd.Env = append(cleanEnv(os.Environ()), goSettings...)
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking the Go compiler for its version: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// floorFallback stands in for the revision's date where the source tree is no
// git checkout (a release archive). The release process updates it.
const floorFallback = "api/libos/floor.txt"

// sourceFloor gives the date of the source revision in Unix seconds, the floor
// of the guest's clock, and the revision if there is one.
func sourceFloor(ctx context.Context, source string) (floor int64, revision string, err error) {
	if _, err := os.Stat(filepath.Join(source, ".git")); err == nil {
		// The tree may belong to another user than the one who builds.
		cmd := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "log", "-1", "--format=%ct %H", "HEAD")
		cmd.Dir = source
		if b, err := cmd.Output(); err == nil {
			sec, rev, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
			if n, err := strconv.ParseInt(sec, 10, 64); err == nil && n > 0 {
				return n, rev, nil
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(source, floorFallback))
	if err != nil {
		return 0, "", fmt.Errorf("finding the source revision's date: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n <= 0 {
		return 0, "", fmt.Errorf("finding the source revision's date: %s holds no Unix time", floorFallback)
	}
	return n, "", nil
}
