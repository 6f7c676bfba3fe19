// Command mirror (bin/test-mirror) is a registry on loopback that serves OCI
// layouts as if they came from the registries their names say.
//
//	test-mirror --layouts DIR [--writable DIR] [--listen 127.0.0.1:0] [--access-log FILE]
//
// DIR holds <registry>/<repository>/<tag>, as test/standins writes it. When it
// serves, it prints one JSON line: {"address": "host:port", "registries": "..."},
// the second being a registries.conf that leads every registry there is a
// layout for, and registry.example, to this mirror. It speaks plain HTTP, since
// it only ever listens on loopback or in a private network. With --writable it takes pushes, whose
// bytes land in that folder; without, it refuses them.
//
// Trust zone: tests only. It plays the untrusted registry.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	layouts := flag.String("layouts", "", "folder of layouts: <registry>/<repository>/<tag>")
	writable := flag.String("writable", "", "folder for what is pushed; empty: no pushes")
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to listen on")
	access := flag.String("access-log", "", "file to add a line to for each request")
	flag.Parse()
	if err := serve(*layouts, *writable, *listen, *access, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "test-mirror:", err)
		os.Exit(1)
	}
}

func serve(layouts, writable, listen, access string, out io.Writer) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() && !ip.IsPrivate() {
		return fmt.Errorf("%s is neither an address of loopback nor a private one", listen)
	}
	h, names, err := newMirror(layouts, writable)
	if err != nil {
		return err
	}
	if access != "" {
		f, err := os.OpenFile(access, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("opening the access log: %w", err)
		}
		defer func() { _ = f.Close() }()
		h = accessLog(h, f)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	addr := l.Addr().String()
	if err := json.NewEncoder(out).Encode(map[string]string{"address": addr, "registries": conf(addr, names)}); err != nil {
		return err
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newMirror gives the registry with everything in layouts, and the names of
// the registries it stands for.
func newMirror(layouts, writable string) (http.Handler, []string, error) {
	b := &blobs{files: map[string]string{}}
	if writable != "" {
		if err := os.MkdirAll(writable, 0o755); err != nil {
			return nil, nil, err
		}
		b.pushed = registry.NewDiskBlobHandler(writable)
	}
	reg := registry.New(registry.WithBlobHandler(b), registry.Logger(log.New(io.Discard, "", 0)))
	names := []string{"registry.example"}
	if layouts != "" {
		found, err := b.load(layouts, reg)
		if err != nil {
			return nil, nil, fmt.Errorf("loading layouts: %w", err)
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	return guard(reg, writable), slices.Compact(names), nil
}

// conf is containers-registries.conf(5), version 2.
func conf(addr string, names []string) string {
	var s strings.Builder
	s.WriteString("unqualified-search-registries = [\"docker.io\"]\n")
	for _, n := range names {
		fmt.Fprintf(&s, "\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", n, addr+"/"+n)
	}
	return s.String()
}
