//go:build cgo

// Command coffer-pkcs11 lets a trustee use a key in a hardware security module: it
// alone loads the module's library, whose code is the vendor's and not Go's, and it
// never sees a secret of the trustee's. It speaks the published plugin interface
// (api/pluginpb) on a Unix socket that its own user alone can open.
//
// Trust zone: trustee, a process of its own. Built with cgo (make coffer-pkcs11).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/cofferproject/coffer/api/pluginpb"
)

const usage = `coffer-pkcs11 lets coffer-trustee wrap its envelope key with a key in a hardware security module.

Usage:
  coffer-pkcs11 serve --module FILE --token LABEL --pin-file FILE --key LABEL --listen SOCKET
  coffer-pkcs11 make-key --module FILE --token LABEL --pin-file FILE --key LABEL
  coffer-pkcs11 plugin --module FILE --token LABEL --pin-file FILE --listen SOCKET [--key LABEL [--mechanism NAME]] [--objects]
  coffer-pkcs11 make-rsa-key --module FILE --token LABEL --pin-file FILE --key LABEL [--bits N]

make-key makes an AES-256 key that cannot leave the token, make-rsa-key an RSA key pair
whose private half cannot. plugin is the published pkcs11 plugin, a process of its own:
wrap-key with the RSA key --key, and with --objects secrets that are objects of the token.

  softhsm2-util --init-token --free --label coffer --so-pin 5678 --pin 1234   # a token in software, to try it
  coffer-pkcs11 make-key --module /usr/lib/softhsm/libsofthsm2.so --token coffer --pin-file pin --key envelope
  coffer-pkcs11 serve    --module /usr/lib/softhsm/libsofthsm2.so --token coffer --pin-file pin --key envelope --listen /run/coffer/pkcs11.sock
  coffer-trustee serve   --key-service 'pkcs11:/run/coffer/pkcs11.sock?key=envelope'

Exit codes: 0 done; 1 anything else, with the reason on standard error.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "coffer-pkcs11:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || !slices.Contains([]string{"serve", "plugin", "make-key", "make-rsa-key"}, args[0]) {
		fmt.Fprint(os.Stderr, usage)
		if len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
			return nil
		}
		return errors.New("no command given: serve, plugin, make-key or make-rsa-key")
	}
	var c config
	f := flag.NewFlagSet("coffer-pkcs11 "+args[0], flag.ContinueOnError)
	f.StringVar(&c.module, "module", "", "library of the security module (PKCS #11)")
	f.StringVar(&c.token, "token", "", "label of the token")
	f.StringVar(&c.pinFile, "pin-file", "", "file with the user's PIN, readable by its owner alone")
	f.StringVar(&c.key, "key", "", "label of the key: of an RSA key pair for plugin and make-rsa-key, else of an AES key")
	listen, mechanism, objects, bits := "", "", false, 0
	serving := args[0] == "serve" || args[0] == "plugin"
	if serving {
		f.StringVar(&listen, "listen", "", "Unix socket to make")
	}
	switch args[0] {
	case "plugin":
		f.StringVar(&mechanism, "mechanism", oaepSHA256, "RsaPkcsOaep (SHA-256), or RsaPkcsTest (SHA-1, for modules that have no other)")
		f.BoolVar(&objects, "objects", false, "read, write and delete secrets that are objects of the token")
	case "make-rsa-key":
		f.IntVar(&bits, "bits", 3072, "length of the modulus")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("%s takes no arguments, got %q", args[0], f.Args())
	case c.module == "" || c.token == "" || c.pinFile == "" || c.key == "" && args[0] != "plugin":
		return errors.New("--module, --token, --pin-file and --key are needed")
	case c.key == "" && !objects && args[0] == "plugin":
		return errors.New("--key, --objects or both are needed")
	case serving && listen == "":
		return errors.New("--listen is needed")
	}
	t, err := open(&c)
	if err != nil {
		return err
	}
	defer t.close()
	var p pluginpb.KbsPluginServer
	switch args[0] {
	case "make-key":
		return t.makeKey()
	case "make-rsa-key":
		return t.makeRSA(c.key, bits)
	case "plugin":
		own := &published{token: t, objects: objects}
		if c.key != "" {
			if own.key, err = t.openRSA(c.key, mechanism); err != nil {
				return err
			}
		}
		p = own
	default:
		if err := t.find(); err != nil {
			return err
		}
		p = &plugin{token: t}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return serve(ctx, p, listen)
}

// maxMessage is far above a wrapped key.
const maxMessage = 256 << 10

func serve(ctx context.Context, p pluginpb.KbsPluginServer, socket string) error {
	ln, err := listenUnix(ctx, socket)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(16), grpc.ConnectionTimeout(10*time.Second))
	pluginpb.RegisterKbsPluginServer(s, p)
	stop := context.AfterFunc(ctx, s.GracefulStop)
	defer stop()
	fmt.Printf("{\"socket\":%q,\"pid\":%d}\n", socket, os.Getpid())
	return s.Serve(ln)
}

// listenUnix makes a socket that this user alone can open; one that a process of before
// has left is replaced, one that somebody serves is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: somebody serves it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, err
	} else if st.Mode().Perm()&0o002 != 0 && st.Mode()&os.ModeSticky == 0 {
		return nil, fmt.Errorf("%s: anybody can replace files in its folder", path)
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return (&net.ListenConfig{}).Listen(ctx, "unix", path)
}
