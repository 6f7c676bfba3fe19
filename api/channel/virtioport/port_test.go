package virtioport

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A regular file reads like a port: end of file, then data once some arrives.
func fakePort(t *testing.T) (sys, dev, file string) {
	t.Helper()
	sys, dev = t.TempDir(), t.TempDir()
	for d, n := range map[string]string{"vport1p1": "other\n", "vport1p2": "coffer.test\n"} {
		if err := os.MkdirAll(filepath.Join(sys, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, d, "name"), []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(dev, "vport1p2")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return sys, dev, file
}

func TestAbsentHostIsWaitedOut(t *testing.T) {
	sys, dev, file := fakePort(t)
	p, err := open(context.Background(), sys, dev, "coffer.test")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { os.WriteFile(file, []byte("hello"), 0o600) })
	b := make([]byte, 16)
	n, err := p.Read(b)
	if err != nil || string(b[:n]) != "hello" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	if _, err := p.Read(b); !errors.Is(err, io.EOF) {
		t.Fatalf("after the host has gone: %v, want EOF", err)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	sys, dev, _ := fakePort(t)
	p, err := open(context.Background(), sys, dev, "coffer.test")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { p.Close() })
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("err = %v", err)
	}
	if err := p.Close(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("second close: %v", err)
	}
}

func TestNoSuchPort(t *testing.T) {
	sys, dev, _ := fakePort(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := open(ctx, sys, dev, "absent"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("err = %v", err)
	}
}
